"""LPIPS: the published network's numbers with a known backbone, and clear words where weights are missing."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.goldens.fill import fill_tensor
from tests.goldens.load import load_json
from videosys import load_lpips

GOLDEN = load_json("metrics", "lpips")["cases"]
SHAPES = {
    0: (64, 3, 11, 11),
    3: (192, 64, 5, 5),
    6: (384, 192, 3, 3),
    8: (256, 384, 3, 3),
    10: (256, 256, 3, 3),
}


def backbone() -> dict[str, torch.Tensor]:
    """AlexNet's convolutions and one tensor of its classifier, of known values."""
    sizes = {f"features.{n}.weight": shape for n, shape in SHAPES.items()}
    sizes |= {f"features.{n}.bias": shape[:1] for n, shape in SHAPES.items()}
    return {name: fill_tensor(name, size) for name, size in sizes.items()} | {
        "classifier.6.bias": torch.ones(9)
    }


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("alexnet") / "alexnet.pth"
    torch.save(backbone(), path)
    return path


@pytest.fixture(scope="module")
def lpips(weights):
    return load_lpips(weights)


def frames(name: str) -> tuple[torch.Tensor, torch.Tensor]:
    a, b = (torch.sigmoid(fill_tensor(f"input:{name}:{which}", GOLDEN[name]["shape"])) for which in "ab")
    return a, 0.7 * a + 0.3 * b


@pytest.mark.parametrize("name", GOLDEN)
def test_the_published_network_gives_the_same(lpips, name):
    values = lpips(*frames(name))
    assert values.dtype == torch.float64
    torch.testing.assert_close(
        values, torch.tensor(GOLDEN[name]["spatial"], dtype=torch.float64), rtol=1e-5, atol=1e-8
    )


def test_the_lpips_package_gives_the_same(lpips, weights):
    try:
        import lpips as package
    except Exception as error:  # a torchvision of another torch raises anything but an ImportError
        pytest.skip(f"lpips cannot be imported: {error}")
    other = package.LPIPS(net="alex", spatial=True, pnet_rand=True, verbose=False).eval()
    features = {name: value for name, value in backbone().items() if name.startswith("features.")}
    layers = dict(other.net.named_modules())
    for name, value in features.items():
        _, place, kind = name.split(".")
        layer = next(
            layer for key, layer in layers.items() if key.split(".")[-1] == place and key.count(".") == 1
        )
        getattr(layer, kind).data.copy_(value)
    a, b = frames("odd")
    with torch.no_grad():
        expected = other(*(item.permute(0, 3, 1, 2) * 2 - 1 for item in (a, b))).double().mean(dim=(1, 2, 3))
    torch.testing.assert_close(lpips(a, b), expected, rtol=1e-5, atol=1e-8)


def test_the_heads_are_those_of_the_lpips_package(lpips):
    spec = find_spec("lpips")
    if spec is None or spec.origin is None:
        pytest.skip("lpips is not installed")
    path = Path(spec.origin).parent / "weights" / "v0.1" / "alex.pth"
    theirs = torch.load(path, map_location="cpu", weights_only=True)
    for n, head in enumerate(lpips.heads):
        assert torch.equal(head, theirs[f"lin{n}.model.1.weight"].flatten())


def test_equal_frames_are_at_distance_zero_and_more_noise_is_farther(lpips):
    a, b = frames("small")
    assert (lpips(a, a) == 0).all()
    near, far = (lpips(a + share * (b - a), a) for share in (0.3, 1.0))
    assert ((near > 0) & (far > near)).all()


def test_batches_and_bytes_change_nothing(lpips):
    a, b = ((video * 255).round().to(torch.uint8) for video in frames("odd"))
    one = lpips(a, b, batch_size=1)
    torch.testing.assert_close(lpips(a / 255, b / 255, batch_size=2), one, rtol=1e-5, atol=1e-8)


def test_a_safetensors_backbone_does_as_well(lpips, tmp_path):
    path = tmp_path / "alexnet.safetensors"
    save_file(backbone(), path)
    assert torch.equal(load_lpips(path)(*frames("small")), lpips(*frames("small")))


def test_a_backbone_in_the_cache_of_torch_is_found(weights, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(ValueError, match=r"alexnet-owt-7be5be79.pth is not in torch's cache; .* https://"):
        load_lpips()
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "alexnet-owt-7be5be79.pth").symlink_to(weights)
    assert load_lpips().scale.shape == (3, 1, 1)


def test_wrong_weights_are_refused(weights, tmp_path):
    with pytest.raises(ValueError, match=r"nowhere\.pth is not a file"):
        load_lpips(tmp_path / "nowhere.pth")
    with pytest.raises(ValueError, match=r"has other weights; it lacks lin0.model.1.weight"):
        load_lpips(weights, heads=weights)
    tensors = backbone()
    tensors["features.3.weight"] = torch.zeros(192, 64, 3, 3)
    save_file(tensors, tmp_path / "other.safetensors")
    with pytest.raises(
        ValueError, match=r"features.3.weight is \(192, 64, 3, 3\) and must be \(192, 64, 5, 5\)"
    ):
        load_lpips(tmp_path / "other.safetensors")


@pytest.mark.parametrize("size", [(30, 64, 3), (64, 30, 3), (64, 64, 1)])
def test_frames_that_the_network_cannot_see_are_refused(lpips, size):
    video = torch.zeros(2, *size)
    with pytest.raises(ValueError, match="LPIPS needs 31 x 31 of 3 channels or more"):
        lpips(video, video)


def test_the_smallest_frames_work(lpips):
    assert (lpips(torch.zeros(1, 31, 31, 3), torch.ones(1, 31, 31, 3)) > 0).all()
