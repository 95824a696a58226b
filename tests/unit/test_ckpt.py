"""The .ckpt files of trainings: averaged weights first, nothing runs, and other content is refused."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from videosys.utils.checkpoint import load_model
from videosys.utils.weights import load_state_dict


class Toy(nn.Module):
    ignored_keys = ("loss.",)

    def __init__(self, config: None) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 3)


def weights(value: float, prefix: str = "") -> OrderedDict[str, torch.Tensor]:
    names = {"layer.weight": (3, 2), "layer.bias": (3,)}
    return OrderedDict((prefix + name, torch.full(shape, value)) for name, shape in names.items())


def loaded(folder: Path, **content: object) -> float:
    """The value of all weights, read through the loader of models."""
    torch.save(content, folder / "checkpoint.ckpt")
    model = load_model(Toy, None, folder)
    assert model.layer.weight.unique().tolist() == model.layer.bias.unique().tolist()
    return model.layer.bias[0].item()


MORE = {"epoch": 3, "lr_schedulers": [{"base_lrs": [1e-5]}], "hyper_parameters": OrderedDict(a="b")}


def test_averaged_weights_come_first(tmp_path):
    assert loaded(tmp_path, state_dict=weights(1.0), ema_state_dict=weights(2.0, "module."), **MORE) == 2.0
    assert loaded(tmp_path, ema_state_dict=weights(3.0)) == 3.0


@pytest.mark.parametrize("empty", [{}, None])
def test_without_averages_the_weights_are_taken(tmp_path, empty):
    assert loaded(tmp_path, state_dict=weights(1.0), ema_state_dict=empty, **MORE) == 1.0
    assert loaded(tmp_path, state_dict=weights(4.0)) == 4.0
    inner = {"gen_model": weights(5.0), "dics_model": weights(6.0)}
    assert loaded(tmp_path, state_dict=inner) == 5.0


def test_weights_of_the_training_loss_are_left_out(tmp_path):
    extra = {"loss.discriminator.weight": torch.zeros(9), "loss.logvar": torch.zeros(())}
    assert loaded(tmp_path, state_dict={**weights(1.0), **extra}) == 1.0
    with pytest.raises(ValueError, match="1 unexpected: other"):
        loaded(tmp_path, state_dict={**weights(1.0), "other": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"1 missing: layer\.bias"):
        loaded(tmp_path, ema_state_dict={"module.layer.weight": torch.zeros(3, 2)})


def test_safetensors_come_before_ckpt_files(tmp_path):
    save_file(weights(7.0), tmp_path / "diffusion_pytorch_model.safetensors")
    assert loaded(tmp_path, state_dict=weights(1.0)) == 7.0


def test_of_two_files_none_is_guessed(tmp_path):
    torch.save({"state_dict": weights(1.0)}, tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match=r"no weights found; .* or one \.ckpt file"):
        loaded(tmp_path, state_dict=weights(1.0))


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_code_in_a_ckpt_file_is_refused_and_does_not_run(tmp_path):
    mark = tmp_path / "ran"
    with pytest.raises(ValueError, match="cannot be read as tensors"):
        loaded(tmp_path, state_dict=weights(1.0), callbacks=Bomb(mark))
    assert not mark.exists()


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"state_dict": {}},
        {"state_dict": [1]},
        {"state_dict": {"a": 1}},
        {"state_dict": {"gen_model": {"a": 1}}},
        {"ema_state_dict": {"a": 1}},
        {"ema_state_dict": [1], "state_dict": weights(1.0)},
        {"model": weights(1.0)},
    ],
)
def test_files_without_weights_are_refused(tmp_path, content):
    torch.save(content, tmp_path / "checkpoint.ckpt")
    with pytest.raises(ValueError, match="must contain tensors by name as ema_state_dict or state_dict"):
        load_state_dict(tmp_path)


def test_a_ckpt_file_holds_a_dictionary(tmp_path):
    torch.save([weights(1.0)], tmp_path / "checkpoint.ckpt")
    with pytest.raises(ValueError, match="must contain a dictionary, got list"):
        load_state_dict(tmp_path)
