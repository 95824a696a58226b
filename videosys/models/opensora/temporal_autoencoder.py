"""The temporal stage of the Open-Sora v1.2 VAE: a causal 3-D net, four frames to one latent frame."""

from __future__ import annotations

import math

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

NORM_EPS = 1e-5  # the spatial stage has 1e-6


class CausalConv3d(nn.Module):
    """A causal 3-D convolution: zeros in front of time, k // 2 around height and width."""

    def __init__(self, c_in: int, c_out: int, kernel: int = 3, stride_t: int = 1, bias: bool = True):
        super().__init__()
        side, front = kernel // 2, kernel - stride_t
        self.pad = (side, side, side, side, front, 0)
        self.conv = nn.Conv3d(c_in, c_out, kernel, stride=(stride_t, 1, 1), bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, self.pad))


class ResBlock(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x)))))), with a pointwise shortcut if the channels change."""

    def __init__(self, c_in: int, c_out: int, groups: int):
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, c_in, eps=NORM_EPS)
        self.conv1 = CausalConv3d(c_in, c_out, bias=False)
        self.norm2 = nn.GroupNorm(groups, c_out, eps=NORM_EPS)
        self.conv2 = CausalConv3d(c_out, c_out, bias=False)
        self.conv3 = nn.Identity() if c_in == c_out else CausalConv3d(c_in, c_out, kernel=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(F.silu(self.norm1(x)))
        return self.conv3(x) + self.conv2(F.silu(self.norm2(y)))


def res_stack(c_in: int, c_out: int, count: int, groups: int) -> nn.Sequential:
    """This number of residual blocks; the first one changes the channels."""
    return nn.Sequential(*(ResBlock(c_in if i == 0 else c_out, c_out, groups) for i in range(count)))


class TemporalEncoder(nn.Module):
    """Moments (mean, logvar) before quant_conv; halves time after every level whose flag is set."""

    def __init__(self, config):
        super().__init__()
        widths, count, groups = config.temporal_widths, config.num_res_blocks, config.num_groups
        inputs = (config.temporal_filters, *widths[:-1])
        self.conv_in = CausalConv3d(config.latent_channels, config.temporal_filters, bias=False)
        self.block_res_blocks = nn.ModuleList(
            res_stack(c_in, c_out, count, groups) for c_in, c_out in zip(inputs, widths, strict=True)
        )
        self.conv_blocks = nn.ModuleList(
            CausalConv3d(width, width, stride_t=2) if halved else nn.Identity()
            for width, halved in zip(widths[:-1], config.temporal_downsample, strict=True)
        )
        self.res_blocks = res_stack(widths[-1], widths[-1], count, groups)
        self.norm1 = nn.GroupNorm(groups, widths[-1], eps=NORM_EPS)
        self.conv2 = CausalConv3d(widths[-1], 2 * config.latent_channels, kernel=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for block, down in zip(self.block_res_blocks, [*self.conv_blocks, nn.Identity()], strict=True):
            x = down(block(x))
        return self.conv2(F.silu(self.norm1(self.res_blocks(x))))


class TemporalDecoder(nn.Module):
    """The reverse of the encoder: levels from the last to the first, time doubled before every halved one."""

    def __init__(self, config):
        super().__init__()
        widths, count, groups = config.temporal_widths, config.num_res_blocks, config.num_groups
        inputs = (*widths[1:], widths[-1])
        self.conv1 = CausalConv3d(config.latent_channels, widths[-1])
        self.res_blocks = res_stack(widths[-1], widths[-1], count, groups)
        self.block_res_blocks = nn.ModuleList(
            res_stack(c_in, c_out, count, groups) for c_in, c_out in zip(inputs, widths, strict=True)
        )
        self.conv_blocks = nn.ModuleList(
            CausalConv3d(width, 2 * width) if doubled else nn.Identity()
            for width, doubled in zip(widths[1:], config.temporal_downsample, strict=True)
        )
        self.norm1 = nn.GroupNorm(groups, widths[0], eps=NORM_EPS)
        self.conv_out = CausalConv3d(widths[0], config.latent_channels)

    def forward(self, latents: Tensor) -> Tensor:
        x = self.res_blocks(self.conv1(latents))
        for level in reversed(range(len(self.block_res_blocks))):
            x = self.block_res_blocks[level](x)
            if level > 0:
                x = unshuffle_time(self.conv_blocks[level - 1](x), x.shape[1])
        return self.conv_out(F.silu(self.norm1(x)))


def unshuffle_time(x: Tensor, channels: int) -> Tensor:
    """[B, C, K T, H, W] from [B, C K, T, H, W]: channel c K + k of frame t becomes frame K t + k."""
    return rearrange(x, "b (c k) t h w -> b c (t k) h w", c=channels)


class TemporalVAE(nn.Module):
    """The temporal stage; all frames of a call are one chunk, normalized together."""

    def __init__(self, config):
        super().__init__()
        channels = config.latent_channels
        self.factor = config.temporal_factor
        self.encoder = TemporalEncoder(config)
        self.quant_conv = CausalConv3d(2 * channels, 2 * channels, kernel=1)
        self.post_quant_conv = CausalConv3d(channels, channels, kernel=1)
        self.decoder = TemporalDecoder(config)

    def encode(self, x: Tensor) -> Tensor:
        """Moments [B, 2 C, ceil(T / 4), H, W]; the frames are filled up with zeros in front."""
        front = -x.shape[2] % self.factor
        return self.quant_conv(self.encoder(F.pad(x, (0, 0, 0, 0, front, 0))))

    def decode(self, latents: Tensor, num_frames: int) -> Tensor:
        """[B, C, num_frames, H, W]: the last `num_frames` of the four frames per latent frame."""
        assert math.ceil(num_frames / self.factor) == latents.shape[2]
        return self.decode_all(latents)[:, :, latents.shape[2] * self.factor - num_frames :]

    def decode_all(self, latents: Tensor) -> Tensor:
        """All frames, including those of the front padding."""
        return self.decoder(self.post_quant_conv(latents))
