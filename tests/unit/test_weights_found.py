"""Weight files that are something else say what they are, and known words before the keys are taken off."""

from __future__ import annotations

import datetime
import io
import json
import os

import pytest
import torch
from safetensors.torch import save, save_file

from tests.toy_weights import Toy, text_encoder_weights
from videosys.text_encoders.t5 import load_tokenizer, load_weights
from videosys.utils.checkpoint import check_model, load_model
from videosys.utils.hub import resolve
from videosys.utils.prefixes import common_prefix
from videosys.utils.weights import load_state_dict

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n"


class Foreign:
    pass


def saved(content: object, **options: object) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, **options)
    return file.getvalue()


TENSORS = {"a": torch.ones(300)}
WHOLE, ZIPPED = save(TENSORS), saved(TENSORS)
LEGACY = saved(TENSORS, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize(
    ("suffix", "content", "words"),
    [
        *((suffix, data, words) for suffix in (".safetensors", ".bin", ".ckpt", ".pt") for data, words in [
            (b"", "it is empty"), (LFS, "Git LFS pointer"), (b"<!doctype html><html>", "HTML page"),
            (b"\0" * 64, "zero bytes"), (b"Access denied", "text that begins with 'Access denied'"),
            (b'{"error": "unauthorized"}', "text that begins with"),
        ]),
        (".safetensors", WHOLE[:4], "truncated"), (".safetensors", WHOLE[:20], "truncated"),
        (".safetensors", WHOLE[:-1], "truncated"), (".safetensors", WHOLE + b"x", "damaged"),
        (".safetensors", ZIPPED, "a torch.save file"), (".safetensors", LEGACY, "a torch.save file"),
        (".bin", WHOLE, "a safetensors file"), (".ckpt", WHOLE, "a safetensors file"),
        (".bin", ZIPPED[:-30], "truncated"), (".bin", ZIPPED[:100], "truncated"),
        (".bin", LEGACY[:-30], "damaged"),
        (".bin", saved({"a": Foreign()}), "Foreign"), (".pt", saved(Foreign()), "Foreign"),
        (".ckpt", saved({"a": datetime.date(2000, 1, 1)}), r"datetime\.date"),
        (".bin", bytes(range(1, 99)), "damaged"),
    ],
)  # fmt: skip
def test_a_file_that_is_something_else_says_what(tmp_path, suffix, content, words):
    name = "pytorch_model" if suffix == ".bin" else "model"
    (tmp_path / f"{name}{suffix}").write_bytes(content)
    with pytest.raises(ValueError, match=words) as caught:
        load_state_dict(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / name}{suffix}: cannot be read as tensors: ")
    assert "weights_only" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "last.ckpt"])
def test_weights_are_regular_files(tmp_path, name):
    os.mkfifo(tmp_path / name)  # reading one would wait for ever
    with pytest.raises(ValueError, match="it is a pipe, not a file"):
        load_state_dict(tmp_path)


def write(folder, kind: str, tensors: dict[str, torch.Tensor]) -> None:
    if kind == "sharded":
        places = {key: f"shard-{number % 2}.safetensors" for number, key in enumerate(tensors)}
        for name in set(places.values()):
            save_file({key: tensors[key] for key in tensors if places[key] == name}, folder / name)
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    elif kind == "safetensors":
        save_file(tensors, folder / "model.safetensors")
    elif kind == "nested":
        torch.save({"state_dict": tensors, "epoch": 3}, folder / "last.ckpt")
    else:
        torch.save(tensors, folder / {"bin": "pytorch_model.bin"}.get(kind, f"any.{kind}"))


@pytest.mark.parametrize("kind", ["safetensors", "sharded", "bin", "ckpt", "nested", "pt", "pth"])
@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "transformer.", "model.diffusion_model.", "module._orig_mod."]
)
def test_a_known_prefix_is_taken_off_and_said(tmp_path, caplog, kind, prefix):
    state = Toy(None).state_dict()
    write(tmp_path, kind, {prefix + key: item.clone() for key, item in state.items()})
    check_model(Toy, None, tmp_path)
    assert caplog.text == ""
    model = load_model(Toy, None, tmp_path)
    assert all(torch.equal(item, state[key]) for key, item in model.state_dict().items())
    assert caplog.text.count("removed the prefix") == 1
    assert prefix.removesuffix("_orig_mod.") in caplog.text


def test_marks_of_wrapped_blocks_and_more_keys(tmp_path, caplog):
    state = Toy(None).state_dict()
    marked = {key.replace("blocks.1.", "blocks.1._orig_mod."): item.clone() for key, item in state.items()}
    write(tmp_path, "bin", {**marked, "loss.weight": torch.zeros(1)})
    load_model(Toy, None, tmp_path)
    assert "'_orig_mod.'" in caplog.text


@pytest.mark.parametrize("kind", ["safetensors", "bin", "ckpt"])
def test_an_unknown_prefix_is_named(tmp_path, kind):
    write(tmp_path, kind, {f"student.{key}": item.clone() for key, item in Toy(None).state_dict().items()})
    with pytest.raises(ValueError, match=r"keys of the weights begin with 'student\.'") as caught:
        load_model(Toy, None, tmp_path)
    assert "missing" not in str(caught.value)


def test_keys_that_are_right_keep_their_words(tmp_path, caplog):
    write(tmp_path, "safetensors", Toy(None).state_dict())  # has model.weight
    load_model(Toy, None, tmp_path)
    assert caplog.text == ""
    assert common_prefix(["a.x", "b.x"], ["x"]) == ""  # which of the two is meant?


@pytest.mark.parametrize("prefix", ["module.", "model.", "text_encoder."])
def test_the_text_encoder_takes_them_off_too(tmp_path, caplog, prefix):
    state = text_encoder_weights(tmp_path)
    write(tmp_path, "bin", {prefix + key: item for key, item in state.items()})
    load_weights(tmp_path, torch.float32)
    assert repr(prefix) in caplog.text


@pytest.mark.parametrize("name", ["spiece.model", "tokenizer_config.json", "special_tokens_map.json"])
@pytest.mark.parametrize("content", [b"", LFS, b"<html>", b"[" * 5000, b"[]", b"\x08\x01junk"])
def test_a_broken_file_of_a_tokenizer_is_named(tmp_path, name, content):
    for path in resolve("bundled:opensora", subfolder="tokenizer").iterdir():
        (tmp_path / path.name).write_bytes(content if path.name == name else path.read_bytes())
    with pytest.raises(ValueError, match=name) as caught:
        load_tokenizer(tmp_path)
    assert "tiktoken" not in str(caught.value)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_a_file_whose_reading_is_interrupted_is_not_damaged(tmp_path, monkeypatch, name):
    def interrupted(*arguments, **options):
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as error:
            raise RuntimeError("unexpected end of file") from error

    monkeypatch.setattr("videosys.utils.weights.safe_open", interrupted)
    monkeypatch.setattr("torch.load", interrupted)
    (tmp_path / name).write_bytes(WHOLE)
    with pytest.raises(KeyboardInterrupt):
        load_state_dict(tmp_path)
