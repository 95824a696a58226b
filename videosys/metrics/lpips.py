"""Learned perceptual image patch similarity (Zhang et al., arXiv 1801.03924): AlexNet, spatial, per frame.

The published network has two parts. The linear heads (version 0.1) are bundled with this package, with
their notice in LICENSE.lpips. The user provides the backbone, AlexNet's convolutions.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from videosys.metrics.frames import Video, check_pair, pieces
from videosys.utils.devices import in_float64
from videosys.utils.reading import expanded
from videosys.utils.settled import settle
from videosys.utils.weights import read_tensors, shortened

HEADS = "lpips_alexnet.safetensors"
BACKBONE = "alexnet-owt-7be5be79.pth"  # as torchvision publishes it
CHANNELS = (64, 192, 384, 256, 256)
LEAST_SIDE = 31  # pixels; the minimum for the last two layers of AlexNet
FRAMES = 8
EPSILON = 1e-10


class Lpips(nn.Module):
    """Distances between frames in the features of five layers; call it like `psnr`. Built by `load_lpips`."""

    shift: torch.Tensor
    scale: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        conv, pool = nn.Conv2d, nn.MaxPool2d
        layers = {
            0: conv(3, 64, 11, stride=4, padding=2),
            2: pool(3, stride=2),
            3: conv(64, 192, 5, padding=2),
            5: pool(3, stride=2),
            6: conv(192, 384, 3, padding=1),
            8: conv(384, 256, 3, padding=1),
            10: conv(256, 256, 3, padding=1),
        }
        self.features = nn.ModuleDict({str(place): layer for place, layer in layers.items()})
        self.heads = nn.ParameterList(nn.Parameter(torch.zeros(channels)) for channels in CHANNELS)
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188]).view(3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450]).view(3, 1, 1), persistent=False)

    def activations(self, frames: torch.Tensor) -> list[torch.Tensor]:
        """The normalized output of each convolution, [t, C, h, w]. frames: [t, 3, H, W] in [0, 1]."""
        x, activations = (frames * 2 - 1 - self.shift) / self.scale, []
        for layer in self.features.values():
            x = layer(x)
            if isinstance(layer, nn.Conv2d):
                x = x.relu()
                activations.append(x / (x.square().sum(dim=1, keepdim=True).sqrt() + EPSILON))
        return activations

    def maps(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """The distance at each pixel, [t, 1, H, W]."""
        total = torch.zeros_like(x[:, :1])
        for head, a, b in zip(self.heads, self.activations(x), self.activations(y)):
            layer = torch.einsum("nchw,c->nhw", (a - b).square(), head)[:, None]
            total += F.interpolate(layer, size=x.shape[2:], mode="bilinear", align_corners=False)
        return total

    @settle
    def forward(self, video: Video, reference: Video, batch_size: int = FRAMES) -> torch.Tensor:
        """The LPIPS of each frame, float64 [T] on the CPU: the mean of its map; a video's is their mean.

        Videos are [T, H, W, 3], uint8 or floating in [0, 1]; `batch_size` frames are compared at once.
        """
        pair = check_pair(video, reference)
        _, height, width, channels = pair[0].shape
        if channels != 3 or min(height, width) < LEAST_SIDE:
            raise ValueError(
                f"frames are {height} x {width} of {channels} channels; LPIPS needs {LEAST_SIDE} x "
                f"{LEAST_SIDE} of 3 channels or more"
            )
        parts = pieces(pair, batch_size, self.scale.device, self.scale.dtype)
        own = torch.backends.cudnn
        # TF32, torch's default for convolutions on a GPU, would lose three digits.
        with own.flags(own.enabled, own.benchmark, deterministic=own.deterministic, allow_tf32=False):
            return torch.cat([in_float64(self.maps(x, y)).mean(dim=(1, 2, 3)).cpu() for x, y in parts])


@settle
def load_lpips(
    backbone: str | Path | None = None,
    heads: str | Path | None = None,
    device: torch.device | str | None = None,
) -> Lpips:
    """Load the metric with its weights.

    backbone: torchvision's AlexNet checkpoint (.pth, or .safetensors of the same names); None for the one in
        torch's cache, if it was downloaded. heads: None for the published ones.
    ValueError if the file does not exist or has other content.
    """
    model = Lpips()
    fill(dict(model.features.named_parameters("features")), find_backbone(backbone))
    source = Path(str(resources.files("videosys.metrics"))) / HEADS if heads is None else Path(heads)
    fill({f"lin{n}.model.1.weight": head for n, head in enumerate(model.heads)}, source)
    return model.requires_grad_(False).eval().to(device)


def find_backbone(path: str | Path | None) -> Path:
    """The file of the backbone. If it is missing, a ValueError names its source."""
    file = Path(torch.hub.get_dir()) / "checkpoints" / BACKBONE if path is None else expanded(path)
    if file.is_file():
        return file
    reason = f"{BACKBONE} is not in torch's cache" if path is None else f"{path} is not a file"
    raise ValueError(
        f"LPIPS needs the weights of AlexNet, and {reason}; torchvision publishes them as "
        f"https://download.pytorch.org/models/{BACKBONE}"
    )


@torch.no_grad()
def fill(parameters: Mapping[str, torch.Tensor], path: Path) -> None:
    """Copy tensors of a file into parameters of the same name and size; other tensors in the file are
    ignored.
    """
    tensors = read_tensors(path)
    missing = [name for name in parameters if name not in tensors]
    if missing:
        raise ValueError(f"{path}: has other weights; it lacks {shortened(missing)}")
    for name, parameter in parameters.items():
        if tensors[name].squeeze().shape != parameter.shape:  # heads are stored as convolutions
            raise ValueError(
                f"{path}: {name} is {tuple(tensors[name].shape)} and must be {tuple(parameter.shape)}"
            )
        if not tensors[name].is_floating_point():
            raise ValueError(f"{path}: {name} holds {tensors[name].dtype}; it must be floating")
        parameter.copy_(tensors[name].reshape(parameter.shape))
