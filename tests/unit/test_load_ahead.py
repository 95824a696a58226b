"""Weights come while the text is encoded, each once, and errors are those of the first use."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import nn

from tests.standin import stand_in
from tests.tiny_checkpoint import MODEL, build_model, config_of, write_text_encoder
from videosys import VideoSysEngine
from videosys.generation.offload import Component, loaded_ahead
from videosys.models.opensora.transformer import STDiT3
from videosys.text_encoders.t5 import load_weights
from videosys.utils.checkpoint import load_model, load_state_dict, save_model

CUDA, CPU = torch.device("cuda"), torch.device("cpu")


class Loads:
    """What loads, and who asked."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.threads: list[threading.Thread] = []
        self.may_go = threading.Event()

    def component(self, name: str, device: torch.device = CUDA, offload: str = "none", fails: bool = False):
        def load() -> nn.Module:
            self.names.append(name)
            self.threads.append(threading.current_thread())
            assert self.may_go.wait(20)
            if fails:
                raise ValueError(f"{name} is damaged")
            return nn.Identity()

        return Component(load, device, offload)


def test_they_load_in_order_beside_the_work():
    loads = Loads()
    parts = [loads.component("transformer"), loads.component("vae")]
    with loaded_ahead(parts):
        loads.may_go.set()  # would never come if the block waited for the weights
    for thread in threading.enumerate():
        if thread.name == "load ahead":
            thread.join(20)
    assert loads.names == ["transformer", "vae"]
    assert threading.main_thread() not in loads.threads
    assert all(part.is_loaded for part in parts)
    with loaded_ahead(parts):
        pass
    assert loads.names == ["transformer", "vae"]


def test_the_first_use_waits_for_what_is_on_its_way(monkeypatch):
    loads = Loads()
    part = loads.component("transformer")
    monkeypatch.setattr(nn.Module, "to", lambda self, device: self)
    with loaded_ahead([part]):
        threading.Timer(0.05, loads.may_go.set).start()
        with part.use() as module:
            assert isinstance(module, nn.Identity)
    assert loads.names == ["transformer"]


@pytest.mark.parametrize(("device", "offload"), [(CPU, "none"), (CUDA, "stage"), (CUDA, "group")])
def test_what_shall_not_stay_is_not_loaded_ahead(device, offload):
    loads = Loads()
    loads.may_go.set()
    part = loads.component("transformer", device, offload)
    with loaded_ahead([part]):
        pass
    assert not loads.names
    assert not part.may_load_ahead


def test_an_error_is_that_of_the_first_use():
    loads = Loads()
    loads.may_go.set()
    parts = [loads.component("transformer", fails=True), loads.component("vae")]
    with loaded_ahead(parts):
        pass
    for _ in range(2):
        with pytest.raises(ValueError, match="transformer is damaged"), parts[0].use():
            pass


def test_the_engine_loads_ahead_on_a_card(checkpoint, monkeypatch):
    seen = []

    def ahead(parts):
        seen.append([part.may_load_ahead for part in parts])
        return loaded_ahead([])  # the stand-in is of this thread alone

    with stand_in():
        monkeypatch.setattr("videosys.generation.pipeline.loaded_ahead", ahead)
        config = config_of(checkpoint, device="cuda", num_frames=1)
        with VideoSysEngine(config, quiet=True) as engine:
            engine.generate("a red circle")
    assert seen == [[True, True]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_weight_goes_to_the_device_once_as_it_lies_in_the_file(dtype, tmp_path):
    model = build_model()
    save_model(model.state_dict(), MODEL, tmp_path)
    want = load_model(STDiT3, MODEL, tmp_path, dtype=dtype).state_dict()
    with stand_in() as machine:
        made = load_model(STDiT3, MODEL, tmp_path, dtype=dtype, device="cuda").state_dict()
        assert sorted(machine.uploads) == sorted(item.nbytes for item in model.state_dict().values())
        assert all(torch.equal(made[name].cpu(), item) for name, item in want.items())


@pytest.mark.parametrize("storage_dtype", ["auto", "float8_e4m3fn"])
def test_so_does_a_weight_of_the_text_encoder(storage_dtype, tmp_path):
    """Those that wait in eight bits are made so before the next one comes."""
    write_text_encoder(tmp_path)
    folder = tmp_path / "text_encoder"
    files = load_state_dict(folder)
    options = {"dtype": torch.bfloat16, "storage_dtype": storage_dtype}
    want = load_weights(folder, **options).state_dict()
    with stand_in() as machine:
        made = load_weights(folder, **options, device="cuda").state_dict()
        assert sorted(machine.uploads) == sorted(item.nbytes for item in files.values())
        assert all(torch.equal(made[name].cpu(), item) for name, item in want.items())
        largest = max(item.nbytes for item in files.values())
        assert machine.peak <= machine.allocated + 4 * largest
    is_quantized = any(name.endswith(".quantized") for name in want)
    assert is_quantized == (storage_dtype != "auto")


def test_token_embeddings_are_one_tensor_wherever_they_are(tmp_path):
    write_text_encoder(tmp_path)
    with stand_in():
        model = load_weights(tmp_path / "text_encoder", torch.float32, "cuda")
        assert model.shared.weight is model.encoder.embed_tokens.weight
        assert not model.shared.weight.requires_grad
