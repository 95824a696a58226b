"""Weight files and indices of any bytes: tensors, or one ValueError that names the file or folder."""

from __future__ import annotations

import io
import json

import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save
from torch import nn

from tests.property.fuzzing import changed, fuzzed, places, plain, replaced, result_or_error
from videosys.utils.checkpoint import load_model
from videosys.utils.weights import load_state_dict


class Toy(nn.Module):
    def __init__(self, config: None) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 3)


STATE = Toy(None).state_dict()
DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int8, torch.int64, torch.bool,
          torch.complex64, torch.uint8]  # fmt: skip
WHOLE = save(STATE)
LENGTH = int.from_bytes(WHOLE[:8], "little")


def zipped(legacy: bool) -> bytes:
    file = io.BytesIO()
    torch.save(STATE, file, _use_new_zipfile_serialization=not legacy)
    return file.getvalue()


FILES = {"model.safetensors": WHOLE, "pytorch_model.bin": zipped(False), "last.ckpt": zipped(False)}


def fresh(factory):
    folder = factory.getbasetemp() / "fuzzed"
    folder.mkdir(exist_ok=True)
    for path in folder.iterdir():
        path.unlink()
    return folder


@fuzzed
@given(st.sampled_from(sorted(FILES)), st.data())
def test_bytes(tmp_path_factory, name, data):
    folder = fresh(tmp_path_factory)
    (folder / name).write_bytes(data.draw(changed(FILES[name]) | st.binary(max_size=99)))
    result_or_error(lambda: load_model(Toy, None, folder), folder)


@fuzzed
@given(st.data())
def test_headers(tmp_path_factory, data):
    folder = fresh(tmp_path_factory)
    header = json.loads(WHOLE[8 : 8 + LENGTH])
    text = json.dumps(
        replaced(header, data.draw(st.sampled_from(list(places(header)))), data.draw(plain))
    ).encode()
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + WHOLE[8 + LENGTH :])
    result_or_error(lambda: load_model(Toy, None, folder), folder)


@fuzzed
@given(st.data())
def test_indices(tmp_path_factory, data):
    folder = fresh(tmp_path_factory)
    (folder / "part.safetensors").write_bytes(WHOLE)
    index = {"metadata": {}, "weight_map": dict.fromkeys(STATE, "part.safetensors")}
    new = data.draw(
        plain | st.sampled_from(["../part.safetensors", "/dev/zero", "~nosuchuser/x", "a\0b", "x" * 300])
    )
    whole = json.dumps(replaced(index, data.draw(st.sampled_from(list(places(index)))), new)).encode()
    path = folder / "model.safetensors.index.json"
    path.write_bytes(data.draw(st.just(whole) | changed(whole)))
    result_or_error(lambda: load_state_dict(folder), folder)


@fuzzed
@given(
    st.sampled_from(DTYPES), st.lists(st.integers(0, 4), max_size=3), st.sampled_from(["", "module.", "x."])
)
def test_kinds_and_shapes(tmp_path_factory, dtype, shape, prefix):
    folder = fresh(tmp_path_factory)
    state = {**STATE, "layer.weight": torch.zeros(shape, dtype=dtype)}
    torch.save({prefix + key: item for key, item in state.items()}, folder / "pytorch_model.bin")
    model = result_or_error(lambda: load_model(Toy, None, folder), folder)
    assert (model is not None) == (shape == [3, 2] and dtype.is_floating_point and prefix != "x.")
