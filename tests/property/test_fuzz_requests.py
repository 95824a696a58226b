"""Prompts, lists, images and messages of any content: a result, or one ValueError that names the thing."""

from __future__ import annotations

import io
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.property.fuzzing import bounded_work, changed, fuzzed, result_or_error
from tests.property.test_messages import PACKED, assert_value_or_error
from videosys import read_prompts, read_video
from videosys.generation.request import check_prompts
from videosys.models.opensora.prompt import split_loops
from videosys.models.opensora.references import load_reference
from videosys.text_encoders.cleaning import clean_prompt
from videosys.text_encoders.t5 import load_tokenizer
from videosys.utils.hub import resolve

PIECES = [
    "<a ",
    "&#",
    "(",
    "@",
    " ",
    "\u0301",
    "<!--",
    "a.",
    "1.1.",
    "|0|",
    "|",
    "Ã©",
    "\udce9",
    "\0",
    "{",
    "%25",
]
prompts = st.text(st.characters(), max_size=60) | st.builds(
    lambda piece, count, end: piece * count + end,
    st.sampled_from(PIECES),
    st.integers(1, 3000),
    st.text(max_size=5),
)


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(resolve("bundled:opensora", subfolder="tokenizer"))


@fuzzed
@given(prompts)
def test_prompts(tokenizer, prompt):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if result_or_error(lambda: check_prompts(prompt), "prompt") is None:
            return
        for text in result_or_error(lambda: split_loops(prompt)[0], "prompt") or ():
            with bounded_work():
                cleaned = clean_prompt(text)
                assert tokenizer(cleaned, truncation=True, max_length=300)["input_ids"][-1] == 1
            assert clean_prompt(text, clean=False) == text.lower().strip()


@fuzzed
@given(st.sampled_from(["txt", "json", "jsonl", "csv", "tsv"]), st.data())
def test_lists(tmp_path_factory, suffix, data):
    path = tmp_path_factory.getbasetemp() / f"fuzzed.{suffix}"
    starts = [
        b"a\nb\n",
        b'["a", {"prompt": "b"}]',
        b'{"prompt": "a"}\n{"prompt": "b"}\n',
        b"prompt,seed\na,1\nb,2\n",
    ]
    content = data.draw(st.sampled_from(starts))
    path.write_bytes(data.draw(st.just(content) | changed(content) | st.binary(max_size=99)))
    found = result_or_error(lambda: read_prompts(path), path)
    assert found is None or all(prompt.strip() for prompt in found.prompts)


def image(kind: str) -> bytes:
    file = io.BytesIO()
    pixels = np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3)
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


HEADS = {"PNG": 33, "GIF": 13, "JPEG": 300, "WEBP": 30, "BMP": 54}  # bytes that say the size


@fuzzed
@given(st.sampled_from(sorted(HEADS)), st.data())
def test_images(tmp_path_factory, kind, data):
    path = tmp_path_factory.getbasetemp() / f"fuzzed.{kind.lower()}"
    path.write_bytes(data.draw(changed(image(kind), HEADS[kind]) | st.binary(max_size=99)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        frames = result_or_error(lambda: load_reference(path, 8, 8), path)
        assert frames is None or frames.shape == (3, 1, 8, 8)
        result_or_error(lambda: read_video(path), path)


@fuzzed
@given(st.sampled_from(PACKED), st.data())
def test_engine_messages(packed, data):
    assert_value_or_error(data.draw(changed(packed) | st.binary(max_size=50)))


def test_an_animation_without_frames_is_an_error(tmp_path, monkeypatch):
    """Found by this suite."""
    (tmp_path / "a.gif").write_bytes(image("GIF"))
    monkeypatch.setattr("videosys.utils.clips.durations", lambda *_: [])
    with pytest.raises(ValueError, match=r"a\.gif.*holds no frames"):
        load_reference(tmp_path / "a.gif", 8, 8)
