"""What passes between an engine's processes: plain values, dataclasses and tensors, as JSON and bytes."""

from __future__ import annotations

import dataclasses
import importlib
import json
import threading
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

LIBRARY = __name__.partition(".")[0]
LENGTH = 8  # bytes of a length
Message = dict[str, Any]


class Wire:
    """One end of a pipe between two processes. Several threads may send."""

    def __init__(self, connection: Connection):
        self.connection, self._lock = connection, threading.Lock()

    def send(self, kind: str, **fields: Any) -> None:
        """Sends a message; OSError where the other end is closed."""
        data = pack({"kind": kind, **fields})
        with self._lock:
            self.connection.send_bytes(data)

    def receive(self) -> Message:
        """The next message, waited for; EOFError or OSError where the other end is closed."""
        return unpack(self.connection.recv_bytes())

    def close(self) -> None:
        self.connection.close()


def pack(value: Any) -> bytes:
    """The bytes of a value: the length of some JSON, the JSON, and the bytes of each tensor in it, once.

    Equal values have equal bytes. TypeError for what is neither plain, nor a tensor, nor a dataclass of this
    library.
    """
    tensors: list[torch.Tensor] = []
    plain = to_plain(value, tensors)
    about = [[str(tensor.dtype).removeprefix("torch."), list(tensor.shape)] for tensor in tensors]
    header = json.dumps([plain, about]).encode()
    return b"".join([len(header).to_bytes(LENGTH, "big"), header, *map(as_bytes, tensors)])


def unpack(data: bytes) -> Any:
    """The value of bytes that `pack` made."""
    rest = memoryview(data)
    end = LENGTH + int.from_bytes(rest[:LENGTH], "big")
    plain, about = json.loads(bytes(rest[LENGTH:end]))
    tensors, rest = [], rest[end:]
    for dtype, shape in about:
        tensor = torch.empty(shape, dtype=getattr(torch, dtype))
        as_bytes(tensor)[:] = rest[: tensor.nbytes]
        tensors.append(tensor)
        rest = rest[tensor.nbytes :]
    return from_plain(plain, tensors)


def as_bytes(tensor: torch.Tensor) -> memoryview:
    """The bytes of a tensor, shared with it where it is contiguous and on the CPU."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data


def to_plain(value: Any, tensors: list[torch.Tensor]) -> Any:
    """What JSON can hold of a value; its tensors are appended to `tensors`, each once."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, list):
        return [to_plain(item, tensors) for item in value]
    if isinstance(value, tuple):
        return {"tuple": to_plain(list(value), tensors)}
    if isinstance(value, dict):
        return {"dict": [to_plain(list(item), tensors) for item in value.items()]}
    if isinstance(value, torch.Tensor):
        return {"tensor": place(value, tensors)}
    if isinstance(value, Path):
        return {"path": str(value)}
    cls = type(value)
    if not dataclasses.is_dataclass(cls) or not cls.__module__.startswith(f"{LIBRARY}."):
        raise TypeError(f"a {cls.__module__}.{cls.__qualname__} cannot be sent to another process")
    names = [field.name for field in dataclasses.fields(cls) if field.init]
    fields = {name: to_plain(getattr(value, name), tensors) for name in names}
    return {"class": [cls.__module__, cls.__qualname__, fields]}


def place(tensor: torch.Tensor, tensors: list[torch.Tensor]) -> int:
    """The number of a tensor in the list: one that is used twice stays one tensor at the other end."""
    for number, known in enumerate(tensors):
        if known is tensor:
            return number
    tensors.append(tensor)
    return len(tensors) - 1


def from_plain(plain: Any, tensors: list[torch.Tensor]) -> Any:
    """The value that `to_plain` took apart."""
    if isinstance(plain, list):
        return [from_plain(item, tensors) for item in plain]
    if not isinstance(plain, dict):
        return plain
    ((kind, content),) = plain.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "path":
        return Path(content)
    if kind == "class":
        module, name, fields = content
        cls = getattr(importlib.import_module(module), name)
        return cls(**{key: from_plain(item, tensors) for key, item in fields.items()})
    return {"tuple": tuple, "dict": dict}[kind](from_plain(content, tensors))
