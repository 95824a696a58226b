"""Layers of CausalVAE on [B, C, T, H, W]: causal 3-D convolutions, 2-D convolutions on
single frames, and down- and upsampling of time and space. The first frame is always separate.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

NORM_EPS = 1e-6

Triple = tuple[int, int, int]
Resize = Callable[[Tensor], Tensor]
LayerTable = dict[str, Callable[..., nn.Module]]


def group_norm(channels: int, groups: int) -> nn.GroupNorm:
    return nn.GroupNorm(groups, channels, eps=NORM_EPS)


def per_frame(module: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Apply a module for images [N, C, H, W] to every frame of x."""
    frames = module(rearrange(x, "b c t h w -> (b t) c h w"))
    return rearrange(frames, "(b t) c h w -> b c t h w", b=len(x))


def repeat_first(x: Tensor, times: int) -> Tensor:
    """x with its first frame repeated `times` times in front."""
    return torch.cat((x[:, :, :1].expand(-1, -1, times, -1, -1), x), dim=2) if times else x


class FrameConv2d(nn.Conv2d):
    """A 3 x 3 convolution of every frame."""

    def __init__(self, c_in: int, c_out: int):
        super().__init__(c_in, c_out, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return per_frame(super().forward, x)


class CausalConv3d(nn.Module):
    """A 3-D convolution with the first frame repeated in front of time and zeros around height and width."""

    def __init__(
        self, c_in: int, c_out: int, kernel: int | Triple = 3, stride: int = 1, side: int | None = None
    ):
        super().__init__()
        kernel_t, kernel_h, _ = (kernel,) * 3 if isinstance(kernel, int) else kernel
        side = kernel_h // 2 if side is None else side
        self.front = kernel_t - 1
        self.conv = nn.Conv3d(c_in, c_out, kernel, stride=stride, padding=(0, side, side))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(repeat_first(x, self.front))


def image_conv(c_in: int, c_out: int, kernel: int = 3) -> nn.Conv2d:
    """A convolution of single frames that keeps their size."""
    return nn.Conv2d(c_in, c_out, kernel, padding=kernel // 2)


class ResnetBlock3D(nn.Module):
    """shortcut(x) + conv(silu(norm(conv(silu(norm(x)))))); statistics run over time, height and width."""

    def __init__(self, c_in: int, c_out: int, groups: int, conv: Callable[..., nn.Module] = CausalConv3d):
        super().__init__()
        self.norm1 = group_norm(c_in, groups)
        self.conv1 = conv(c_in, c_out)
        self.norm2 = group_norm(c_out, groups)
        self.conv2 = conv(c_out, c_out)
        self.nin_shortcut = nn.Identity() if c_in == c_out else conv(c_in, c_out, kernel=1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return self.nin_shortcut(x) + h


class ResnetBlock2D(ResnetBlock3D):
    """The same on single frames, with their own statistics."""

    def __init__(self, c_in: int, c_out: int, groups: int):
        super().__init__(c_in, c_out, groups, image_conv)

    def forward(self, x: Tensor) -> Tensor:
        return per_frame(super().forward, x)


class FrameAttention(nn.Module):
    """x + single-head self-attention over the positions of each frame."""

    def __init__(self, channels: int, groups: int):
        super().__init__()
        self.norm = group_norm(channels, groups)
        self.q, self.k, self.v, self.proj_out = (CausalConv3d(channels, channels, kernel=1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        q, k, v = (rearrange(part(h), "b c t h w -> (b t) 1 (h w) c") for part in (self.q, self.k, self.v))
        out = F.scaled_dot_product_attention(q, k, v)
        return x + self.proj_out(rearrange(out, "(b t) 1 (h w) c -> b c t h w", b=len(x), h=x.shape[3]))


class Resample(nn.Module):
    """Change the size of x, then convolve it; with `mixed`, a learned mixture of `mixed(x)` and the
    convolution.
    """

    def __init__(self, resize: Resize, conv: nn.Module, mixed: Resize | None = None):
        super().__init__()
        self.resize, self.mixed = resize, mixed
        if mixed is not None:
            self.mix_factor = nn.Parameter(torch.zeros(1))
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        x = self.resize(x)
        if self.mixed is None:
            return self.conv(x)
        return torch.lerp(self.conv(x), self.mixed(x), self.mix_factor.sigmoid())


def pad_far(x: Tensor) -> Tensor:
    """One zero row at the bottom and one zero column at the right."""
    return F.pad(x, (0, 1, 0, 1))


class SpatialDown(nn.Module):
    """Half the height and width of every frame."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return per_frame(lambda frames: self.conv(pad_far(frames)), x)


def joint_down(channels: int) -> Resample:
    """Half the time, height and width: t frames become (t - 1) // 2 + 1."""
    return Resample(pad_far, CausalConv3d(channels, channels, stride=2, side=0))


def time_down(channels: int) -> Resample:
    """Half the time: a mixture of an average over three frames and a convolution."""
    conv = nn.Conv3d(channels, channels, 3, stride=(2, 1, 1), padding=(0, 1, 1))
    mean = partial(F.avg_pool3d, kernel_size=(3, 1, 1), stride=(2, 1, 1))
    return Resample(partial(repeat_first, times=2), conv, mean)


def spatial_up(channels: int) -> Resample:
    """Twice the height and width of every frame."""
    resize = partial(F.interpolate, scale_factor=(1, 2, 2), mode="nearest")
    return Resample(resize, CausalConv3d(channels, channels, kernel=(1, 3, 3)))


def time_up(channels: int) -> Resample:
    """1 + 2 (t - 1) frames of t: a mixture of the doubled frames and their convolution."""
    return Resample(partial(resize_but_first, space=1), CausalConv3d(channels, channels), nn.Identity())


def joint_up(channels: int) -> Resample:
    """Twice the height and width, and 1 + 2 (t - 1) frames."""
    return Resample(partial(resize_but_first, space=2), CausalConv3d(channels, channels))


def resize_but_first(x: Tensor, space: int) -> Tensor:
    """Height and width times `space`, and time doubled except for the first frame."""
    first, rest = x[:, :, :1], x[:, :, 1:]
    if space > 1:
        first = F.interpolate(first, scale_factor=(1, space, space), mode="trilinear")
    if not rest.shape[2]:
        return first
    return torch.cat((first, F.interpolate(rest, scale_factor=(2, space, space), mode="trilinear")), dim=2)


RESNETS: LayerTable = {"ResnetBlock2D": ResnetBlock2D, "ResnetBlock3D": ResnetBlock3D}
CONVS: LayerTable = {"Conv2d": FrameConv2d, "CausalConv3d": CausalConv3d}
NONE: LayerTable = {"": nn.Identity}

# By part of encoder and decoder: the published class names in config.json, "" for no layer.
LAYERS: Mapping[str, LayerTable] = MappingProxyType(
    {
        "conv_in": CONVS,
        "conv_out": CONVS,
        "attention": {"AttnBlock3DFix": FrameAttention},
        "resnet_blocks": RESNETS,
        "mid_resnet": RESNETS,
        "spatial_downsample": NONE | {"Downsample": SpatialDown, "Spatial2xTime2x3DDownsample": joint_down},
        "temporal_downsample": NONE | {"TimeDownsampleRes2x": time_down},
        "spatial_upsample": NONE | {"SpatialUpsample2x": spatial_up, "Spatial2xTime2x3DUpsample": joint_up},
        "temporal_upsample": NONE | {"TimeUpsampleRes2x": time_up},
    }
)
