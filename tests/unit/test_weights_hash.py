"""Weights are told apart, wherever they lie and whatever else lies beside them."""

from __future__ import annotations

import pytest

from videosys.utils.weights_hash import weights_hash


def folder(tmp_path, name, **files):
    made = tmp_path / name
    made.mkdir()
    for file, content in files.items():
        (made / file.replace("__", ".")).write_bytes(content)
    return made


def test_the_same_weights_have_the_same_hash_anywhere(tmp_path):
    content = bytes(range(256)) * 4000
    one = folder(tmp_path, "one", model__safetensors=content, config__json=b"{}")
    other = folder(tmp_path, "other", model__safetensors=content)
    assert weights_hash(one) == weights_hash(str(other))
    assert len(weights_hash(one)) == 16


@pytest.mark.parametrize("place", [0, 500_000, 1_023_999])
def test_a_stretch_of_other_weights_has_another(place, tmp_path):
    content = bytearray(bytes(range(256)) * 4000)
    one = folder(tmp_path, "one", model__safetensors=bytes(content))
    start = max(place - 20_000, 0)
    content[start : place + 20_000] = bytes(len(content[start : place + 20_000]))
    other = folder(tmp_path, "other", model__safetensors=bytes(content))
    assert weights_hash(one) != weights_hash(other)


def test_names_lengths_and_indices_count(tmp_path):
    a = folder(tmp_path, "a", model__safetensors=b"abc")
    b = folder(tmp_path, "b", other__safetensors=b"abc")
    c = folder(tmp_path, "c", model__safetensors=b"abc", model__safetensors__index__json=b"{}")
    assert len({weights_hash(made) for made in (a, b, c)}) == 3


def test_no_weights_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="no weights"):
        weights_hash(tmp_path)
