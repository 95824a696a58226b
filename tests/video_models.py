"""Transformers of diffusers, tiny and with random weights."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import diffusers

from videosys.diffusers.known import KNOWN, RandomTiny

WAN = {
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "text_dim": 32,
    "ffn_dim": 32,
    "num_layers": 2,
}


def bundled(name: str) -> tuple[str, dict[str, Any]]:
    """The class and the sizes of a tiny random transformer that the package has."""
    tiny = KNOWN[name].tiny
    assert isinstance(tiny, RandomTiny)
    return tiny.transformer, dict(tiny.sizes)


# The class of each transformer, and what differs from its published sizes.
MODELS: MappingProxyType[str, tuple[str, dict[str, Any]]] = MappingProxyType(
    {
        "wan": ("WanTransformer3DModel", WAN),
        "wan_image_to_video": ("WanTransformer3DModel", {**WAN, "in_channels": 36}),
        "skyreels": ("SkyReelsV2Transformer3DModel", {**WAN, "text_dim": 16}),
        "anyflow": ("AnyFlowTransformer3DModel", {**WAN, "gate_value": 0.25, "deltatime_type": "r"}),
        "helios": (
            "HeliosTransformer3DModel",
            {
                **WAN,
                "rope_dim": (4, 4, 4),
                "has_multi_term_memory_patch": True,
                "guidance_cross_attn": True,
                "zero_history_timestep": True,
                "is_amplify_history": False,
            },
        ),
        "ltx": bundled("ltx"),
        "hunyuan_video": bundled("hunyuan_video"),
        "hunyuan_video_15": (
            "HunyuanVideo15Transformer3DModel",
            {
                "in_channels": 9,
                "out_channels": 4,
                "num_attention_heads": 2,
                "attention_head_dim": 8,
                "num_layers": 3,
                "num_refiner_layers": 1,
                "patch_size": 1,
                "patch_size_t": 1,
                "text_embed_dim": 16,
                "text_embed_2_dim": 32,
                "image_embed_dim": 12,
                "rope_axes_dim": (2, 2, 4),
                "target_size": 16,
                "task_type": "t2v",
            },
        ),
        "cogvideox": bundled("cogvideox"),
        "mochi": (
            "MochiTransformer3DModel",
            {
                "patch_size": 2,
                "num_attention_heads": 2,
                "attention_head_dim": 8,
                "num_layers": 3,
                "pooled_projection_dim": 16,
                "in_channels": 12,
                "out_channels": None,
                "text_embed_dim": 32,
                "time_embed_dim": 4,
                "activation_fn": "swiglu",
                "max_sequence_length": 16,
            },
        ),
        "latte": (
            "LatteTransformer3DModel",
            {
                "sample_size": 8,
                "patch_size": 2,
                "num_attention_heads": 3,
                "attention_head_dim": 8,
                "in_channels": 4,
                "out_channels": 8,
                "cross_attention_dim": 24,
                "caption_channels": 32,
                "num_layers": 2,
                "video_length": 4,
                "attention_bias": True,
                "norm_type": "ada_norm_single",
                "norm_elementwise_affine": False,
                "activation_fn": "gelu-approximate",
                "num_embeds_ada_norm": 1000,
            },
        ),
        "allegro": (
            "AllegroTransformer3DModel",
            {
                "num_attention_heads": 2,
                "attention_head_dim": 12,
                "in_channels": 4,
                "out_channels": 4,
                "num_layers": 2,
                "cross_attention_dim": 24,
                "sample_width": 8,
                "sample_height": 8,
                "sample_frames": 8,
                "caption_channels": 24,
            },
        ),
        "kandinsky5": (
            "Kandinsky5Transformer3DModel",
            {
                "in_visual_dim": 16,
                "out_visual_dim": 16,
                "in_text_dim": 32,
                "in_text_dim2": 16,
                "time_dim": 16,
                "patch_size": (1, 2, 2),
                "model_dim": 16,
                "ff_dim": 32,
                "num_text_blocks": 1,
                "num_visual_blocks": 2,
                "axes_dims": (1, 1, 2),
                "attention_type": "regular",
            },
        ),
        "sana_video": (
            "SanaVideoTransformer3DModel",
            {
                "in_channels": 16,
                "out_channels": 16,
                "num_attention_heads": 2,
                "attention_head_dim": 12,
                "num_layers": 3,
                "num_cross_attention_heads": 2,
                "cross_attention_head_dim": 12,
                "cross_attention_dim": 24,
                "caption_channels": 8,
                "mlp_ratio": 2.5,
                "sample_size": 8,
                "patch_size": (1, 2, 2),
                "qk_norm": "rms_norm_across_heads",
                "rope_max_seq_len": 32,
            },
        ),
        "easyanimate": (
            "EasyAnimateTransformer3DModel",
            {
                "num_attention_heads": 2,
                "attention_head_dim": 16,
                "in_channels": 4,
                "out_channels": 4,
                "mmdit_layers": 2,
                "num_layers": 3,
                "patch_size": 2,
                "text_embed_dim": 16,
                "time_embed_dim": 8,
                "time_position_encoding_type": "3d_rope",
                "timestep_activation_fn": "silu",
            },
        ),
        "motif_video": (
            "MotifVideoTransformer3DModel",
            {
                "in_channels": 33,
                "out_channels": 16,
                "num_attention_heads": 2,
                "attention_head_dim": 12,
                "num_layers": 2,
                "num_single_layers": 2,
                "num_decoder_layers": 0,
                "patch_size": 1,
                "patch_size_t": 1,
                "qk_norm": "rms_norm",
                "norm_type": "layer_norm",
                "text_embed_dim": 32,
                "image_embed_dim": 4,
                "rope_axes_dim": (4, 4, 4),
                "enable_text_cross_attention_dual": False,
                "enable_text_cross_attention_single": False,
            },
        ),
    }
)


def transformer(name: str) -> Any:
    """A transformer of `MODELS`, in evaluation mode."""
    cls, sizes = MODELS[name]
    return getattr(diffusers, cls)(**sizes).eval()
