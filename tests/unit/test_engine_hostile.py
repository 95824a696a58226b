"""Hostile and broken messages: one clear error each, and nothing that they name is imported or called."""

from __future__ import annotations

import os
import struct
import sys
from dataclasses import asdict, dataclass
from multiprocessing import Pipe

import pytest
import torch

from tests.hostile import FIELDS, STEP, call, forge, hostile, nested
from videosys import LatteConfig, OpenSoraConfig, OpenSoraPlanConfig, Reference, TeaCacheConfig
from videosys.cache import StepRecord
from videosys.engine import messages as m
from videosys.engine.codec import MAX_DEPTH, MAX_MESSAGE_BYTES, Codec, nesting
from videosys.generation.watch import StepProgress

CODEC = m.message_codec()


@pytest.fixture
def marker(tmp_path, monkeypatch):
    """A file that appears when code of a message runs, or when the module it names is imported."""
    file = tmp_path / "ran"
    source = f"open({str(file)!r}, 'w').close()\ndef run(command): pass\n"
    (tmp_path / "hostile_marker.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    return file


@pytest.mark.parametrize("name", hostile(""))
def test_a_hostile_message_is_one_error_and_runs_nothing(name, marker):
    data, pattern = hostile(f"touch {marker}")[name]
    modules = set(sys.modules)
    with pytest.raises(ValueError, match=f"refused: .*({pattern})"):
        CODEC.unpack(data)
    assert set(sys.modules) == modules
    assert not marker.exists()


def test_there_are_many_hostile_messages():
    assert len({data for data, _ in hostile("x").values()}) >= 60


def test_what_is_refused_would_have_been_possible():
    """The forged messages are well formed: with the right name the same bytes are a value."""
    assert CODEC.unpack(call(STEP, **FIELDS)) == StepRecord(**FIELDS)
    assert CODEC.unpack(forge([{"dict": [["a", {"tuple": [1]}]]}, []])) == {"a": (1,)}


@dataclass(frozen=True)
class Other:
    step: int = 0


def test_a_class_of_the_same_name_is_another():
    with pytest.raises(TypeError, match="test_engine_hostile:Other cannot be sent"):
        CODEC.pack([Other()])
    codec = Codec([Other])
    assert codec.unpack(codec.pack(Other(3))) == Other(3)
    with pytest.raises(ValueError, match=r"allowed: 'tests.unit.test_engine_hostile:Other'"):
        codec.unpack(call(STEP, **FIELDS))
    data = codec.pack(Other(3))
    other = type("Other", (), {"__module__": __name__})  # says that it is the one in the table
    with pytest.raises(TypeError, match="cannot be sent"):
        codec.pack(other())
    assert codec.unpack(data) == Other(3)


@dataclass(frozen=True)
class Raising:
    value: int

    def __post_init__(self):
        raise {3: KeyError, 4: RecursionError}[self.value]("no")


@pytest.mark.parametrize(("value", "error"), [(3, "KeyError"), (4, "RecursionError"), (5, "KeyError")])
def test_any_error_of_a_dataclass_is_one_error_that_names_it(value, error):
    name = f"{__name__}:Raising"
    with pytest.raises(ValueError, match=f"{name} cannot have these values: {error}"):
        Codec([Raising]).unpack(call(name, value=value))


def test_the_table_holds_what_requests_and_outputs_can_hold_and_no_more():
    names = {cls.__name__ for cls in m.value_types()}
    assert names >= {"OpenSoraConfig", "LatteConfig", "OpenSoraPlanConfig", "ParallelConfig", "Reference"}
    assert names >= {"NoCacheConfig", "TeaCacheConfig", "PABConfig", "BestConfig", "Hold", "Linear", "Fitted"}
    assert names >= {"EasyCacheConfig", "SeaCacheConfig", "Taylor", "Hermite"}
    assert names >= {"VideoOutput", "StepRecord", "CompileReport"}
    assert names.isdisjoint({"Job", "Parallel", "STDiT3Config", "RankFailure", "Failed", "Open"})
    assert {cls.__name__ for cls in m.message_types([TeaCacheConfig])} >= {"TeaCacheConfig", "Linear"}
    assert Reference not in m.message_types([LatteConfig])
    assert Reference in m.message_types([LatteConfig], [list[Reference]])


@pytest.mark.parametrize("cls", [OpenSoraConfig, LatteConfig, OpenSoraPlanConfig])
def test_every_choice_of_a_registry_can_be_sent(cls):
    fields = cls.__dataclass_fields__.values()
    registries = {field.name: field.metadata["registry"] for field in fields if "registry" in field.metadata}
    presets = [(name, choice) for name in registries for choice in registries[name].values()]
    for name, choice in presets:
        if not isinstance(choice, type):
            config = cls(**{name: choice})
            assert CODEC.unpack(CODEC.pack(config)) == config


@pytest.mark.parametrize(
    ("text", "depth"),
    [
        (b"", 0),
        (b"1", 0),
        (b"[]", 1),
        (b"[[], {}]", 2),
        (b'["[[[["]', 1),
        (rb'["\"[[[["]', 1),
        (rb'["\\", [[]]]', 3),
        (rb'["\\\"[", [[]]]', 3),
        (rb'["\\\\", [[]]]', 3),
        (b'["[[[[', 1),
        (b"]]][", 0),
    ],
)
def test_nesting_counts_the_brackets_outside_strings(text, depth):
    assert nesting(text) == depth


def test_what_is_nested_too_deep_cannot_be_packed_either():
    assert CODEC.unpack(CODEC.pack(nested(MAX_DEPTH - 2))) == nested(MAX_DEPTH - 2)
    cycle: list = []
    cycle.append(cycle)
    for value in (nested(MAX_DEPTH - 1), cycle):
        with pytest.raises(ValueError, match="nested deeper than 100"):
            CODEC.pack(value)


def test_what_is_too_large_cannot_be_packed():
    with pytest.raises(ValueError, match="a header has 33554440 bytes"):
        CODEC.pack("x" * (32 << 20))

    class Large(torch.Tensor):
        nbytes = MAX_MESSAGE_BYTES

    with pytest.raises(ValueError, match=r"a message has 17179869.* bytes; it must have 17179869184 or less"):
        CODEC.pack(torch.zeros(1).as_subclass(Large))


@pytest.fixture
def pipe():
    ours, theirs = Pipe()
    with ours, theirs:
        yield m.Wire(ours, CODEC), theirs


def test_a_wire_says_that_a_message_is_too_large_before_it_reads_it(pipe):
    wire, other = pipe
    os.write(other.fileno(), struct.pack("!iQ", -1, MAX_MESSAGE_BYTES + 1))
    with pytest.raises(ValueError, match="more than 17179869184 bytes"):
        wire.receive(m.TO_RANK)


def test_a_wire_says_that_the_other_end_is_closed(pipe):
    wire, other = pipe
    other.close()
    with pytest.raises(EOFError):
        wire.receive(m.TO_RANK)
    wire.close()
    with pytest.raises(OSError, match="handle is closed"):
        wire.receive(m.TO_RANK)


FAILED = m.Failed(3, "KeyError", "x", "trace", is_lost_peer=True)
MESSAGES = [
    m.Start(OpenSoraConfig(), 1, 29500, "cpu", True, 2),
    m.Open(LatteConfig(), 0, ["a", "b"], {"references": ("a.png",)}, 20),
    m.Next(1, True),
    m.Drop(1),
    m.Resume(),
    m.Close(),
    m.Cancel(1),
    m.Output(1, None),
    m.Progress(1, StepProgress("denoise", 1, 4, False, 0.5)),
    m.End(1),
    FAILED,
    m.Log("videosys.x", 20, "INFO", "text", 1.5, {"a": [1, "b"]}),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_messages_arrive_with_all_of_their_fields_and_no_others(pipe, message):
    wire, other = pipe
    m.Wire(other, CODEC).send(message)
    assert wire.receive((type(message),)) == message
    name = f"{m.__name__}:{type(message).__name__}"
    fields = {"request": 1, "extra": 2}
    other.send_bytes(call(name, **fields))
    with pytest.raises(ValueError, match=rf"{name} has the fields \['request', 'extra'\]"):
        wire.receive((type(message),))


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_messages_are_taken_in_one_direction_only(pipe, message):
    wire, other = pipe
    groups = (m.FIRST, m.TO_RANK, m.FROM_RANK)
    assert [isinstance(message, group) for group in groups].count(True) == 1
    for group in groups:
        if not isinstance(message, group):
            m.Wire(other, CODEC).send(message)
            with pytest.raises(ValueError, match=f"a message is a {type(message).__name__}; expected: "):
                wire.receive(group)
    other.send_bytes(CODEC.pack({"kind": "close"}))
    with pytest.raises(ValueError, match="a message is a dict; expected: Open, Next, Drop, Resume, Close"):
        wire.receive(m.TO_RANK)


@pytest.mark.parametrize(
    ("cls", "fields", "message"),
    [
        (m.Next, {"request": "1", "needs_output": True}, "request must be a whole number, got '1'"),
        (m.Next, {"request": 1, "needs_output": 1}, "needs_output must be true or false"),
        (m.Output, {"request": 1, "output": {"dict": []}}, "output must be VideoOutput or NoneType"),
        (m.Failed, {**asdict(FAILED), "trace": None}, "trace must be text"),
        (m.Drop, {"request": True}, "request must be a whole number"),
        (m.Progress, {"request": 1, "progress": {"dict": []}}, "progress must be StepProgress, got"),
    ],
)
def test_fields_of_messages_have_their_types(cls, fields, message):
    with pytest.raises(ValueError, match=f":{cls.__name__} cannot have these values: ValueError: {message}"):
        CODEC.unpack(call(f"{m.__name__}:{cls.__name__}", **fields))


def test_a_start_and_a_request_have_a_config():
    for message in MESSAGES[:2]:
        fields = {name: getattr(message, name) for name in message.__dataclass_fields__} | {"config": None}
        with pytest.raises(ValueError, match="config must be a PipelineConfig, got NoneType"):
            type(message)(**fields)
