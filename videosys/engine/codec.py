"""Serialization of plain values, tensors, and a fixed set of dataclasses.

The bytes come from another process, possibly on another machine. A name in them is only compared with a
table: nothing is imported, and only dataclasses of the table are called.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from videosys.utils.reading import MAX_DEPTH, nesting
from videosys.utils.typed import listing, shown

MAX_MESSAGE_BYTES = 1 << 34  # 16 GiB: several minutes of 720p video
MAX_HEADER_BYTES = 1 << 25  # 32 MiB of JSON: thousands of long prompts
MAX_DIMS = 16
PREFIX_BYTES = 8  # the length of the header
NUMBERS = "bool uint8 int8 int16 int32 int64 float16 bfloat16 float32 float64"
DTYPES: Mapping[str, torch.dtype] = MappingProxyType({name: getattr(torch, name) for name in NUMBERS.split()})
DTYPE_NAMES = MappingProxyType({dtype: name for name, dtype in DTYPES.items()})
# Types that JSON lacks are mappings with one of these keys.
KINDS = ("tuple", "dict", "path", "tensor", "class")


class Codec:
    """Packs and unpacks values.

    types: the dataclasses that a value may hold. Other values are None, bool, int, float, str, Path, tensors
        on any device, and lists, tuples and dicts of these; keys of dicts are plain.

    A message is the length of a header (8 bytes, big endian), the header, and the bytes of each tensor. The
    header is JSON in ASCII: `[value, [[dtype, shape], ...]]`. A value of a type that JSON lacks is a mapping
    with one key, its kind: tuple, dict, path, tensor (an index) or class (`["module:name", fields]`).
    """

    def __init__(self, types: Iterable[type]):
        self.types = {type_name(cls): cls for cls in types}

    def pack(self, value: Any) -> bytes:
        """The bytes of a value; equal values have equal bytes.

        TypeError for a value that cannot be sent, ValueError for one that is nested too deep or too large.
        """
        header, contents = self._layout(value)
        return b"".join([len(header).to_bytes(PREFIX_BYTES, "big"), header, *map(as_bytes, contents)])

    def check(self, value: Any) -> None:
        """Raise the errors of `pack`, without copying tensors."""
        self._layout(value)

    def _layout(self, value: Any) -> tuple[bytes, list[torch.Tensor]]:
        """(header, tensors) of the message for a value."""
        tensors: dict[int, tuple[int, torch.Tensor]] = {}
        try:
            plain = self._encode(value, tensors)
        except RecursionError:
            raise ValueError(f"a message must not be nested deeper than {MAX_DEPTH} brackets") from None
        contents = [tensor for _, tensor in tensors.values()]
        layouts = [[DTYPE_NAMES[tensor.dtype], list(tensor.shape)] for tensor in contents]
        header = json.dumps([plain, layouts]).encode("ascii")
        check_header(header)
        size = PREFIX_BYTES + len(header) + sum(tensor.nbytes for tensor in contents)
        if size > MAX_MESSAGE_BYTES:
            raise ValueError(f"a message has {size} bytes; it must have {MAX_MESSAGE_BYTES} or less")
        return header, contents

    def unpack(self, data: bytes) -> Any:
        """The value of a message. Tensors are on the CPU and belong to the caller.

        ValueError for bytes that `pack` of an equal codec cannot produce. Sizes, depth and names are
        checked before anything is allocated or constructed.
        """
        try:
            return self._decode(*parse(memoryview(data)))
        except ValueError as error:
            raise ValueError(f"a message from another process is refused: {error}") from error

    def _encode(self, value: Any, tensors: dict[int, tuple[int, torch.Tensor]]) -> Any:
        """The JSON form of a value; its tensors are added to `tensors`, each once."""
        if is_plain(value):
            return value
        if isinstance(value, list):
            return [self._encode(item, tensors) for item in value]
        if isinstance(value, tuple):
            return {"tuple": [self._encode(item, tensors) for item in value]}
        if isinstance(value, dict) and all(map(is_plain, value)):
            return {"dict": [[key, self._encode(item, tensors)] for key, item in value.items()]}
        if isinstance(value, torch.Tensor) and has_bytes(value):
            return {"tensor": tensors.setdefault(id(value), (len(tensors), value))[0]}
        if isinstance(value, Path):
            return {"path": str(value)}
        name = type_name(type(value))
        if self.types.get(name) is not type(value):
            raise TypeError(f"a {name} cannot be sent to another process")
        return {
            "class": [
                name,
                {field: self._encode_field(value, field, tensors) for field in field_names(type(value))},
            ]
        }

    def _encode_field(self, value: Any, field: str, tensors: dict[int, tuple[int, torch.Tensor]]) -> Any:
        try:
            return self._encode(getattr(value, field), tensors)
        except TypeError as error:
            raise TypeError(f"{field}: {error}") from None

    def _decode(self, plain: Any, tensors: Sequence[torch.Tensor]) -> Any:
        """The value of its JSON form."""
        if isinstance(plain, list):
            return [self._decode(item, tensors) for item in plain]
        if not isinstance(plain, dict):
            return plain
        if len(plain) != 1 or not plain.keys() <= {*KINDS}:
            raise ValueError(f"a mapping has the keys {shown([*plain])}, not one of {listing(KINDS)}")
        ((kind, content),) = plain.items()
        if kind == "tuple":
            return tuple(self._decode(check(content, list, "a tuple"), tensors))
        if kind == "path":
            return Path(check(content, str, "a path"))
        if kind == "tensor":
            if type(content) is not int or not 0 <= content < len(tensors):
                raise ValueError(f"tensor {shown(content)} is not one of the message's {len(tensors)}")
            return tensors[content]
        if kind == "class":
            name, fields = pair(content, "a class")
            return self._decode_dataclass(name, fields, tensors)
        items = [pair(item, "an item of a dict") for item in check(content, list, "a dict")]
        if not all(is_plain(key) for key, _ in items):
            raise ValueError("a key of a dict must be a number, text, true, false or null")
        return unique([(key, self._decode(item, tensors)) for key, item in items])

    def _decode_dataclass(self, name: Any, fields: Any, tensors: Sequence[torch.Tensor]) -> Any:
        if not isinstance(name, str) or name not in self.types:
            raise ValueError(f"class {shown(name)} is not allowed; allowed: {listing(self.types)}")
        cls, names = self.types[name], field_names(self.types[name])
        if check(fields, dict, f"the fields of {name}").keys() != {*names}:
            raise ValueError(f"{name} has the fields {shown([*fields])}; it must have: {listing(names)}")
        values = {field: self._decode(item, tensors) for field, item in fields.items()}
        try:
            return cls(**values)
        except Exception as error:  # a wrong attribute can raise any error
            raise ValueError(f"{name} cannot have these values: {type(error).__name__}: {error}") from error


def check_header(header: bytes) -> None:
    """ValueError for a header that is too long, or nested deep enough to exhaust the stack."""
    if len(header) > MAX_HEADER_BYTES:
        raise ValueError(f"a header has {len(header)} bytes; it must have {MAX_HEADER_BYTES} or less")
    if nesting(header) > MAX_DEPTH:
        raise ValueError(f"a message must not be nested deeper than {MAX_DEPTH} brackets")


def parse(data: memoryview) -> tuple[Any, list[torch.Tensor]]:
    """(JSON form of the value, its tensors) of a message."""
    length, available = int.from_bytes(data[:PREFIX_BYTES], "big"), len(data) - PREFIX_BYTES
    if length > available:
        raise ValueError(f"its header has {length} bytes, but {max(available, 0)} follow")
    header, content = bytes(data[PREFIX_BYTES:][:length]), data[PREFIX_BYTES:][length:]
    check_header(header)
    envelope = json.loads(header.decode("ascii"), object_pairs_hook=unique)
    plain, rows = pair(envelope, "a message's header")
    layouts = [parse_layout(*pair(row, "the layout of a tensor")) for row in check(rows, list, "the layouts")]
    sizes = [math.prod(shape) * dtype.itemsize for dtype, shape in layouts]
    if sum(sizes) != len(content):
        raise ValueError(f"its tensors have {sum(sizes)} bytes, but {len(content)} follow the header")
    starts = accumulate(sizes, initial=0)
    return plain, [read_tensor(*layout, content[start:]) for layout, start in zip(layouts, starts)]


def parse_layout(name: Any, shape: Any) -> tuple[torch.dtype, list[int]]:
    """The dtype and shape of a tensor."""
    if not isinstance(name, str) or name not in DTYPES:
        raise ValueError(f"dtype {shown(name)} is not allowed; allowed: {listing(DTYPES)}")
    sizes = check(shape, list, "a shape")
    if len(sizes) > MAX_DIMS or not all(type(size) is int and size >= 0 for size in sizes):
        raise ValueError(f"shape {shown(shape)} must be {MAX_DIMS} or fewer whole numbers of 0 or more")
    # Even if one of them is 0: torch multiplies the others.
    if math.prod(max(size, 1) for size in sizes) > MAX_MESSAGE_BYTES:
        raise ValueError(f"shape {shown(shape)} is too large for a message")
    return DTYPES[name], sizes


def read_tensor(dtype: torch.dtype, shape: list[int], content: memoryview) -> torch.Tensor:
    """A tensor from the first bytes of a buffer."""
    tensor = torch.empty(shape, dtype=dtype)
    as_bytes(tensor)[:] = content[: tensor.nbytes]
    if dtype == torch.bool and tensor.numel() and int(tensor.view(torch.uint8).max()) > 1:
        raise ValueError("a tensor of bool has bytes other than 0 and 1")
    return tensor


def has_bytes(tensor: torch.Tensor) -> bool:
    """Whether a tensor can be sent."""
    return tensor.dtype in DTYPE_NAMES and tensor.layout == torch.strided and not tensor.is_meta


def as_bytes(tensor: torch.Tensor) -> memoryview:
    """The bytes of a tensor; they share its memory if it is contiguous and on the CPU."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data


def type_name(cls: type) -> str:
    """`module:qualified name`, as messages name a type."""
    return f"{cls.__module__}:{cls.__qualname__}"


def field_names(cls: type) -> list[str]:
    """The fields that a dataclass takes as arguments, in order."""
    return [field.name for field in dataclasses.fields(cls) if field.init]


def is_plain(value: Any) -> bool:
    """Whether JSON can represent the value, also as a key."""
    return value is None or isinstance(value, (bool, int, float, str))


def unique(items: list[tuple[Any, Any]]) -> dict[Any, Any]:
    """The dict of some items. ValueError for a key that occurs twice."""
    mapping = dict(items)
    if len(mapping) < len(items):
        raise ValueError("a mapping has a duplicate key")
    return mapping


def pair(value: Any, what: str) -> list[Any]:
    """A list of two. ValueError for anything else."""
    if not isinstance(value, list) or len(value) != 2:
        raise ValueError(f"{what} must be a list of two, not {shown(value)}")
    return value


def check(value: Any, cls: type, what: str) -> Any:
    """The value. ValueError if it is of another type."""
    if not isinstance(value, cls):
        raise ValueError(f"{what} must be a {cls.__name__}, not {shown(value)}")
    return value
