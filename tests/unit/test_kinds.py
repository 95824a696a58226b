"""One table says what a file is that is not what its name says, wherever a user may name one."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import struct
import tarfile
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save

from videosys import OpenSoraConfig, load_config
from videosys.text_encoders.t5 import check_tokenizer_files
from videosys.utils.checkpoint import read_config
from videosys.utils.kinds import PICKLE, SAFETENSORS, ZIP, kind_of
from videosys.utils.prompts import read_prompts
from videosys.utils.weights import load_state_dict

WEIGHTS = save({"a": torch.ones(300)})
CONFIG = b"num_frames: 51\n" * 20


def written(write) -> bytes:
    file = io.BytesIO()
    write(file)
    return file.getvalue()


def archive(kind: str) -> bytes:
    def write(file):
        if kind == "tar":
            with tarfile.open(fileobj=file, mode="w") as tar:
                tar.addfile(tarfile.TarInfo("a"))
        else:
            with zipfile.ZipFile(file, "w") as archive:
                archive.writestr("a", "b")

    return written(write)


FILES = {
    "gzip": (gzip.compress(WEIGHTS), "compressed by gzip"),
    "xz": (lzma.compress(CONFIG), "compressed by xz"),
    "bzip2": (bz2.compress(CONFIG), "compressed by bzip2"),
    "zstd": (b"\x28\xb5\x2f\xfd" + bytes(range(60)), "compressed by zstd"),
    "lz4": (b"\x04\x22\x4d\x18" + bytes(range(60)), "compressed by lz4"),
    "gguf": (b"GGUF" + struct.pack("<IQQ", 3, 1, 1), "a GGUF file"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(range(60)), "an HDF5 file"),
    "numpy": (written(lambda file: np.save(file, np.ones(3))), "a NumPy array"),
    "png": (written(lambda file: Image.new("RGB", (2, 2)).save(file, "PNG")), "a PNG image"),
    "jpeg": (written(lambda file: Image.new("RGB", (2, 2)).save(file, "JPEG")), "a JPEG image"),
    "pdf": (b"%PDF-1.7\n", "a PDF document"),
    "tar": (archive("tar"), "a TAR archive"),
    "html": (b"\xef\xbb\xbf\n <!DOCTYPE html>\n<html>", "an HTML page"),
    "login": (b"<HTML><title>Sign in", "an HTML page"),
    "xml": (b"<?xml version='1.0'?><Error>", "XML text"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "a Git LFS pointer"),
    "zeros": (bytes(5000), "zero bytes"),
}
READERS = {
    "prompts.txt": read_prompts,
    "prompts.json": read_prompts,
    "config.yaml": lambda path: load_config(OpenSoraConfig, path),
    "config.json": lambda path: read_config(OpenSoraConfig, path.parent),
    "model.safetensors": lambda path: load_state_dict(path.parent),
    "pytorch_model.bin": lambda path: load_state_dict(path.parent),
    "last.ckpt": lambda path: load_state_dict(path.parent),
    "spiece.model": lambda path: check_tokenizer_files(path.parent),
    "tokenizer.json": lambda path: check_tokenizer_files(path.parent),
    "tokenizer_config.json": lambda path: check_tokenizer_files(path.parent),
}


def refused(folder, name: str, content: bytes) -> str:
    (folder / name).write_bytes(content)
    with pytest.raises(ValueError, match=name) as caught:
        READERS[name](folder / name)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("kind", FILES)
def test_what_a_file_is_is_said_wherever_it_is_named(tmp_path, name, kind):
    content, words = FILES[kind]
    assert f"it is {words}" in refused(tmp_path, name, content)


@pytest.mark.parametrize("name", [name for name in READERS if name not in ("pytorch_model.bin", "last.ckpt")])
def test_archives_and_pickles_are_only_what_torch_saves(tmp_path, name):
    words = {"model.safetensors": ("a torch.save file",) * 2}.get(name, (ZIP, PICKLE))
    assert f"it is {words[0]}" in refused(tmp_path, name, archive("zip"))
    assert f"it is {words[1]}" in refused(tmp_path, name, b"\x80\x02}q\x00.")


@pytest.mark.parametrize("length", [0x0280, 0x8B1F, 0xD8FF, 0xFEFF, 0x088B1F, 0x474E5089 & 0xFFFFFF])
def test_the_length_before_safetensors_is_no_other_kind(tmp_path, length):
    head = {"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}
    content = length.to_bytes(8, "little") + json.dumps(head).encode().ljust(length) + b"x"
    assert kind_of(content) == SAFETENSORS
    (tmp_path / "model.safetensors").write_bytes(content)
    assert load_state_dict(tmp_path)["a"].item() == ord("x")
    assert "it is truncated" in refused(tmp_path, "model.safetensors", content[:-1])


@pytest.mark.parametrize(
    "text", ["{}", "a: b", "GGUF models on a shelf", "PAR1 is a word", "<headless> horse"]
)
def test_plain_text_is_no_kind(text):
    assert kind_of(text.encode()) == ""


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
@pytest.mark.parametrize("name", [name for name in READERS if not name.startswith("prompts")])
def test_wide_text_is_named_where_it_is_not_read(tmp_path, name, encoding):
    content = json.dumps({"num_frames": 51}).encode(encoding)
    assert "it is text in UTF-16" in refused(tmp_path, name, content)


def test_other_encodings_and_nothing_are_named(tmp_path):
    assert "it is not UTF-8 text" in refused(tmp_path, "config.yaml", "a: b\n# \u00e9\n".encode("latin-1"))
    assert "it is empty" in refused(tmp_path, "config.json", b"")
    assert "it is empty" in refused(tmp_path, "pytorch_model.bin", b"")
