"""Messages that no codec wrote: what a broken or hostile process could send."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from videosys import ParallelConfig
from videosys.cache import StepRecord
from videosys.engine.codec import MAX_DEPTH, MAX_HEADER_BYTES, MAX_MESSAGE_BYTES, type_name

CONFIG = "videosys.models.latte.pipeline:LatteConfig"
STEP = type_name(StepRecord)
FIELDS = {
    "step": 0,
    "timestep": 1.0,
    "distance": None,
    "rescaled": None,
    "accumulated": None,
    "computed": True,
    "reused": 0,
    "bytes_held": 0,
}
HUGE = 1 << 62


def forge(header: Any, content: bytes = b"", length: int | None = None) -> bytes:
    """A message with this header, as bytes or as what JSON holds, and these bytes after it."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "big") + text + content


def call(name: str, /, **fields: Any) -> bytes:
    """A message that asks to call something with keyword arguments."""
    return forge([{"class": [name, fields]}, []])


def tensor(dtype: Any = "uint8", shape: Any = (2,), content: bytes = b"\0\0", index: Any = 0) -> bytes:
    return forge([{"tensor": index}, [[dtype, shape]]], content)


def foreign_calls(command: str) -> Iterator[tuple[str, bytes, str]]:
    """Messages that name what must never run; `command` is for a shell."""
    yield "shell", call("os:system", command=command), "class 'os:system' is not allowed; allowed: 'vid"
    yield "process", call("subprocess:Popen", args=command), "'subprocess:Popen' is not allowed"
    yield "builtin", call("builtins:eval", source="1"), "'builtins:eval' is not allowed"
    yield "import", call("builtins:__import__", name="hostile_marker"), "'builtins:__import__' is not allowed"
    yield "new module", call("hostile_marker:run", command=command), "'hostile_marker:run' is not allowed"
    yield "class", call("pathlib:Path"), "'pathlib:Path' is not allowed"
    yield "foreign dataclass", call("huggingface_hub.hf_api:CommitInfo"), "is not allowed"
    yield (
        "library's dataclass",
        call("videosys.generation.request:VideoJob", prompt="a", seed=1),
        ":VideoJob' is not allowed",
    )
    yield "library's function", call("videosys.utils.files:write_text", path="x", text=""), "is not allowed"
    yield "attribute", call(f"{STEP}.__init__"), "is not allowed"
    yield "module's attribute", call("videosys.engine.codec:json.loads", s="1"), "is not allowed"
    yield "name is a number", forge([{"class": [3, {}]}, []]), "class 3 is not allowed"
    yield "name is a list", forge([{"class": [[STEP], {}]}, []]), "is not allowed"
    yield "module and name", forge([{"class": ["os", "system", {"command": command}]}, []]), "list of two"
    yield (
        "reduce",
        forge([{"reduce": ["os:system", [command]]}, []]),
        r"keys \['reduce'\], not one of 'tuple'",
    )


def wrong_fields() -> Iterator[tuple[str, bytes, str]]:
    yield "missing field", call(STEP, step=0), r"has the fields \['step'\]; it must have: 'step', 'timestep'"
    yield "foreign field", call(STEP, **FIELDS, __class__="x"), "it must have: 'step'"
    yield "fields are a list", forge([{"class": [STEP, [*FIELDS]]}, []]), "must be a dict"
    yield (
        "values that are refused",
        call(type_name(ParallelConfig), num_gpus=0, dp=None, cfg=None, sp=None,
             mesh_backend="torch", timeout=1.0),
        "ParallelConfig cannot have these values: ValueError: parallel.num_gpus is 0",
    )  # fmt: skip
    yield (
        "duplicate field",
        forge(b'[{"class": ["%s", {"step": 1, "step": 2}]}, []]' % STEP.encode()),
        "duplicate key",
    )
    yield "duplicate kind", forge(b'[{"path": "a", "path": "b"}, []]'), "duplicate key"
    yield "duplicate key", forge([{"dict": [["a", 1], ["a", 2]]}, []]), "duplicate key"
    yield "two kinds", forge([{"path": "a", "tuple": []}, []]), "keys"
    yield "no kind", forge([{}, []]), "keys"
    yield "key is a list", forge([{"dict": [[[1], 2]]}, []]), "a key of a dict must be"
    yield "item is no pair", forge([{"dict": [[1, 2, 3]]}, []]), "list of two"
    yield "tuple of text", forge([{"tuple": "abc"}, []]), "must be a list"
    yield "path is a number", forge([{"path": 3}, []]), "must be a str"


def wrong_tensors() -> Iterator[tuple[str, bytes, str]]:
    yield "dtype with a dot", tensor("float32.__class__"), "dtype 'float32.__class__' is not allowed"
    yield "dtype is a function", tensor("load"), "dtype 'load' is not allowed; allowed: 'bool', 'uint8'"
    yield "dtype is a list", tensor(["uint8"]), "is not allowed"
    yield "more than there is", tensor(shape=[3]), "its tensors have 3 bytes, but 2 follow"
    yield "less than there is", tensor(shape=[1]), "its tensors have 1 bytes, but 2 follow"
    yield "huge", tensor(shape=[HUGE]), "is too large for a message"
    yield "product overflows to 0", tensor(shape=[1 << 32, 1 << 32], content=b""), "too large for a message"
    yield "huge but empty", tensor(shape=[0, HUGE, HUGE], content=b""), "too large for a message"
    yield "below 0", tensor(shape=[-2]), "of 0 or more"
    yield "two below 0", tensor(shape=[-1, -2]), "of 0 or more"
    yield "size is a float", tensor(shape=[2.0]), "whole numbers"
    yield "size is not a number", tensor(shape=[float("nan")]), "whole numbers"
    yield "size is true", tensor(shape=[True, 2]), "whole numbers"
    yield "shape is a number", tensor(shape=2), "must be a list"
    yield "many dims", tensor(shape=[1] * 65 + [2]), "16 or fewer"
    yield "bool of 2", tensor("bool", content=b"\1\2"), "bytes other than 0 and 1"
    yield "next index", tensor(index=1), "tensor 1 is not one of the message's 1"
    yield "last index", tensor(index=-1), "tensor -1 is not one"
    yield "index is true", tensor(index=False), "tensor False is not one"
    yield "index is not a number", tensor(index=float("nan")), "tensor nan is not one"
    yield "layout is short", forge([1, [["uint8"]]]), "list of two"
    yield "layouts are a number", forge([1, 2]), "must be a list"


def wrong_bytes() -> Iterator[tuple[str, bytes, str]]:
    valid = tensor()
    yield "nothing", b"", "header has 0 bytes, but 0 follow|must be a list|Expecting value"
    yield "half a length", b"\0\0\0", "header has 0 bytes, but 0 follow"
    yield "huge length", forge([1, []], length=(1 << 64) - 1), "header has 18446744073709551615 bytes, but"
    yield "length too long", forge([1, []], length=99), "header has 99 bytes, but 7 follow"
    yield "truncated", valid[:-1], "its tensors have 2 bytes, but 1 follow"
    yield "trailing", valid + b"\0", "its tensors have 2 bytes, but 3 follow"
    yield "deep lists", forge(b"[" * 100_000), "nested deeper than"
    yield "deep mappings", forge(b'{"tuple":[' * 50_000), "nested deeper than"
    yield "deep and closed", forge([nested(MAX_DEPTH), []]), "nested deeper than"
    yield "deep after a string", forge(b'["\\\\", "\\"", ' + b"[" * 100_000), "nested deeper than"
    yield "long header", forge(b" " * (MAX_HEADER_BYTES + 1)), "it must have 33554432 or less"
    yield "not UTF-8", forge(b'["\xff\xfe", []]'), "can't decode byte 0xff"
    yield "UTF-16", forge('["a", []]'.encode("utf-16")), "can't decode"
    yield "not JSON", forge(b"[1, []"), "Expecting"
    yield "two values", forge(b"[1, []] [1, []]"), "Extra data"
    yield "Python", forge(b"[__import__('os'), []]"), "Expecting value"
    yield "no envelope", forge({"tuple": []}), "must be a list of two"
    yield "half an envelope", forge([1]), "must be a list of two"
    yield "control character", forge(b'["\n", []]'), "Invalid control character"


def nested(depth: int) -> Any:
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


def hostile(command: str) -> dict[str, tuple[bytes, str]]:
    """Messages by name, with a pattern of what is said about each."""
    groups = (foreign_calls(command), wrong_fields(), wrong_tensors(), wrong_bytes())
    return {name: (data, pattern) for group in groups for name, data, pattern in group}


assert MAX_MESSAGE_BYTES < HUGE
