"""Checkpoint folders: what is whole loads exactly, and everything else is one clear error."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from videosys.utils.checkpoint import load_model, read_config, save_model


@dataclass(frozen=True)
class ToyConfig:
    width: int = 4
    ratio: float = 2.0
    patch: tuple[int, ...] = (1, 2)

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ValueError(f"width must be at least 1, got {self.width}")


@dataclass(frozen=True)
class FragileConfig:
    sizes: tuple[int, ...] = (1,)
    width: int = 4

    def __post_init__(self) -> None:
        assert self.sizes[0] >= 8 % self.width


@dataclass(frozen=True)
class NeedsConfig:
    width: int


class Toy(nn.Module):
    ignored_keys = ("extra.",)
    float32_parameters = ("exact",)

    def __init__(self, config: ToyConfig, depth: int = 2) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(config.width, config.width) for _ in range(depth))
        self.exact = nn.Parameter(torch.ones(3))
        self.register_buffer("table", torch.zeros(2))
        self.register_buffer("count", torch.zeros(1, dtype=torch.int64))


def weights(**changes: torch.Tensor | None) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    made = {
        key: torch.randn(item.shape, generator=generator)
        for key, item in Toy(ToyConfig()).state_dict().items()
    }
    made["count"] = torch.tensor([7])
    made.update(changes)
    return {key: item for key, item in made.items() if item is not None}


def folder_of(path: Path, tensors: dict[str, torch.Tensor] | None = None) -> Path:
    save_model(weights() if tensors is None else tensors, ToyConfig(), path)
    return path


def write_shards(folder: Path, suffix: str = ".safetensors", stem: str = "model") -> dict[str, str]:
    """Write the weights as two shards and an index, as published checkpoints have them."""
    tensors = weights()
    halves = [dict(list(tensors.items())[:3]), dict(list(tensors.items())[3:])]
    places = {}
    for number, half in enumerate(halves, 1):
        name = f"{stem}-{number:05}-of-00002{suffix}"
        (save_file if suffix == ".safetensors" else torch.save)(half, folder / name)
        places.update(dict.fromkeys(half, name))
    write_index(folder, places, f"{stem}{suffix}")
    return places


def write_index(folder: Path, places: object, name: str = "model.safetensors") -> None:
    (folder / f"{name}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))


def assert_loads(folder: Path) -> None:
    loaded = load_model(Toy, ToyConfig(), folder).state_dict()
    assert loaded.keys() == weights().keys()
    for key, expected in weights().items():
        assert torch.equal(loaded[key], expected), key


def refused(folder: Path) -> str:
    with pytest.raises(ValueError) as caught:
        load_model(Toy, ToyConfig(), folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_saved_models_load_bit_for_bit(tmp_path):
    folder = folder_of(tmp_path / "made")
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert read_config(ToyConfig, folder) == ToyConfig()
    assert_loads(folder)


def test_the_model_is_ready_for_sampling(tmp_path):
    model = load_model(Toy, ToyConfig(), folder_of(tmp_path))
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert not any(tensor.is_meta for tensor in model.state_dict().values())


def test_constructor_arguments_are_passed_on(tmp_path):
    more = weights(**{"layers.2.weight": torch.zeros(4, 4), "layers.2.bias": torch.zeros(4)})
    assert len(load_model(Toy, ToyConfig(), folder_of(tmp_path, more), depth=3).layers) == 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_dtype_concerns_floats_only(tmp_path, dtype):
    model = load_model(Toy, ToyConfig(), folder_of(tmp_path), dtype=dtype)
    assert model.layers[0].weight.dtype == dtype
    assert model.table.dtype == dtype
    assert torch.equal(model.layers[0].weight, weights()["layers.0.weight"].to(dtype))
    assert model.exact.dtype == torch.float32
    assert model.count.dtype == torch.int64
    assert model.count.item() == 7


@pytest.mark.parametrize(
    "name", ["model.safetensors", "diffusion_pytorch_model.safetensors", "whatever.safetensors"]
)
def test_single_files(tmp_path, name):
    save_file(weights(), tmp_path / name)
    assert_loads(tmp_path)


@pytest.mark.parametrize("legacy", [False, True])
def test_single_bin_files(tmp_path, legacy):
    torch.save(weights(), tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=not legacy)
    assert_loads(tmp_path)


@pytest.mark.parametrize(
    ("suffix", "stem"),
    [
        (".safetensors", "model"),
        (".safetensors", "diffusion_pytorch_model"),
        (".bin", "pytorch_model"),
    ],
)
def test_shards(tmp_path, suffix, stem):
    write_shards(tmp_path, suffix, stem)
    assert_loads(tmp_path)


def test_safetensors_come_before_bin_files(tmp_path):
    torch.save({}, tmp_path / "pytorch_model.bin")
    write_shards(tmp_path)
    assert_loads(tmp_path)


def test_ignored_keys_may_be_there_or_not(tmp_path):
    assert_loads(folder_of(tmp_path / "with", weights(**{"extra.deep.weight": torch.zeros(9)})))
    assert_loads(folder_of(tmp_path / "without"))


def test_keys_that_do_not_fit_are_one_error_that_lists_them(tmp_path):
    wrong = weights(**{"layers.0.weight": None, "odd": torch.zeros(1), "table": torch.zeros(3)})
    message = refused(folder_of(tmp_path, wrong))
    assert "the weights do not fit Toy" in message
    assert "1 missing: layers.0.weight" in message
    assert "1 unexpected: odd" in message
    assert "1 with another shape: table (3,) instead of (2,)" in message


def test_long_lists_are_cut(tmp_path):
    message = refused(
        folder_of(tmp_path, weights(**{f"odd{index:02}": torch.zeros(1) for index in range(25)}))
    )
    assert "25 unexpected: odd00" in message
    assert "odd09 and 15 more" in message
    assert "odd10" not in message


@pytest.mark.parametrize("keep", [0, 5, 60, -4])
def test_truncated_files(tmp_path, keep):
    for name in ("model.safetensors", "pytorch_model.bin"):
        folder = tmp_path / name
        folder.mkdir()
        (save_file if name.endswith("tensors") else torch.save)(weights(), folder / name)
        (folder / name).write_bytes((folder / name).read_bytes()[:keep])
        assert "cannot be read as tensors" in refused(folder)


class Bomb:
    """Unpickling this makes the file it names."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_with_code_is_refused_and_does_not_run(tmp_path, legacy):
    mark = tmp_path / "ran"
    tensors = {**weights(), "layers.0.weight": Bomb(mark)}
    torch.save(tensors, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=not legacy)
    assert "cannot be read as tensors" in refused(tmp_path)
    assert not mark.exists()


@pytest.mark.parametrize("content", [[torch.zeros(1)], {"a": 1}, {"state": {"a": torch.zeros(1)}}])
def test_bin_files_hold_tensors_by_name(tmp_path, content):
    torch.save(content, tmp_path / "pytorch_model.bin")
    assert "must contain only tensors by name" in refused(tmp_path)


def test_folders_without_weights(tmp_path):
    assert "no weights" in refused(tmp_path)
    save_file(weights(), tmp_path / "a.safetensors")
    save_file(weights(), tmp_path / "b.safetensors")
    assert "no weights" in refused(tmp_path)  # two files and no index: which one is not ours to guess


def outside_names(folder: Path) -> list[str]:
    (folder / "sub").mkdir(exist_ok=True)
    (folder / "link.safetensors").symlink_to(folder.parent / "outside.safetensors")
    return [
        str(folder.parent / "outside.safetensors"),
        "../outside.safetensors",
        "sub/../../outside.safetensors",
        "sub/inside.safetensors",
        "link.safetensors",
        "..",
        "",
    ]


@pytest.mark.parametrize("number", range(7))
def test_an_index_stays_in_its_folder(tmp_path, number):
    folder = tmp_path / "folder"
    folder.mkdir()
    save_file(weights(), tmp_path / "outside.safetensors")
    name = outside_names(folder)[number]
    write_index(folder, dict.fromkeys(weights(), name))
    assert f"names {name!r}, which is not a file in its own folder" in refused(folder)


def test_the_hub_cache_links_into_its_blobs(tmp_path):
    snapshot = tmp_path / "models--a--b" / "snapshots" / "0123" / "transformer"
    blobs = tmp_path / "models--a--b" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for name in sorted(set(write_shards(snapshot).values())):
        (snapshot / name).rename(blobs / name)
        (snapshot / name).symlink_to(os.path.relpath(blobs / name, snapshot))
    assert_loads(snapshot)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"weight_map": []}', '{"weight_map": {"a": 1}}', "\x00"])
def test_damaged_indices(tmp_path, text):
    (tmp_path / "model.safetensors.index.json").write_text(text)
    assert "must contain JSON with a weight_map" in refused(tmp_path)


def test_shards_that_do_not_keep_the_index_promise(tmp_path):
    places = write_shards(tmp_path)
    write_index(tmp_path, {**places, "odd": places["count"]})
    assert "names tensors that are not in their files: odd" in refused(tmp_path)
    (tmp_path / places["count"]).unlink()
    assert f"names '{places['count']}', which is missing" in refused(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read as JSON"),
        ("[]", "must contain a JSON object, got list"),
        ('{"width": "4"}', "width: must be a whole number, got '4'"),
        ('{"patch": [1, "x"]}', "patch: has an invalid item: item 1"),
        ('{"width": 0}', "width must be at least 1, got 0"),
    ],
)
def test_wrong_configs(tmp_path, text, message):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError) as caught:
        read_config(ToyConfig, tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / 'config.json'}: ")
    assert message in str(caught.value)
    assert str(caught.value).count("config.json") == 1


def test_published_configs_have_keys_of_their_own(tmp_path):
    (tmp_path / "config.json").write_text('{"_class_name": "X", "ratio": 3, "patch": [4, 5, 6]}')
    assert read_config(ToyConfig, tmp_path) == ToyConfig(ratio=3.0, patch=(4, 5, 6))
    with pytest.raises(ValueError, match="width: is missing"):
        read_config(NeedsConfig, tmp_path)
    with pytest.raises(ValueError, match="no such file"):
        read_config(ToyConfig, tmp_path / "absent")


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    folder = folder_of(tmp_path)
    before = (folder / "model.safetensors").read_bytes()

    def fail(tensors, path):
        Path(path).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr("videosys.utils.checkpoint.save_file", fail)
    with pytest.raises(KeyboardInterrupt):
        save_model({}, ToyConfig(), folder)
    assert (folder / "model.safetensors").read_bytes() == before
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]


MEASURE = """
import resource, sys, torch
from torch import nn
from videosys.utils import weights
from videosys.utils.checkpoint import load_model

weights.PART_BYTES = 16 << 20

class Big(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(1024, 1024) for _ in range(32))

def peak(key):
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) / 1024

before = peak("VmHWM:")
model = load_model(Big, None, sys.argv[1], dtype=getattr(torch, sys.argv[2]))
total = sum(float(p.double().sum()) for p in model.parameters())
print(peak("VmHWM:") - before, total)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak memory from /proc")
@pytest.mark.parametrize(("dtype", "size"), [("float32", 128), ("bfloat16", 64)])
def test_peak_memory_is_the_size_of_the_weights(tmp_path, dtype, size):
    tensors = {}
    for index in range(32):
        tensors[f"layers.{index}.weight"] = torch.full((1024, 1024), 0.5)
        tensors[f"layers.{index}.bias"] = torch.zeros(1024)
    save_file(tensors, tmp_path / "model.safetensors")
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path), dtype], capture_output=True, text=True, check=True
    )
    peak, total = map(float, done.stdout.split())
    assert total == 32 * 1024 * 1024 * 0.5
    # The file is mapped, so its pages count once; with another dtype a part at a time stands beside.
    assert peak < (size + 16) * 1.1 + 24


@pytest.mark.parametrize("content", ['{"width": 0}', '{"sizes": []}'])
def test_a_config_that_breaks_its_class_is_one_error(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ValueError, match=re.escape(str(tmp_path / "config.json"))):
        read_config(FragileConfig, tmp_path)


@pytest.mark.parametrize("width", [10**12, -(10**30)])
def test_a_config_that_makes_no_model_is_one_error(tmp_path, width):
    config = ToyConfig()
    object.__setattr__(config, "width", width)
    with pytest.raises(ValueError, match="its config is not valid for Toy") as caught:
        load_model(Toy, config, folder_of(tmp_path))
    assert str(tmp_path) in str(caught.value)


def test_whole_numbers_are_no_weights(tmp_path):
    whole = {"exact": torch.ones(3, dtype=torch.int64), "count": torch.ones(1)}
    message = refused(folder_of(tmp_path, weights(**whole)))
    assert "exact torch.int64" in message
    assert "count torch.float32" in message
