"""Video pipelines of diffusers with tiny random transformers: Cosmos, Framepack, AnyFlow FAR, ConsisID, and
further variants of pipelines that other modules have.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from types import MappingProxyType, SimpleNamespace
from typing import Any

import diffusers
import torch

from tests.video_models import MODELS, WAN
from tests.video_pipelines import (
    Case,
    NoVAE,
    built,
    euler,
    guider,
    hunyuan_call,
    hunyuan_video_15,
    kandinsky5,
    noise,
    noise_image,
    texts,
    unipc,
    wan_vae,
    with_modulation,
)
from tests.video_pipelines_more import FOUR, cogvideox_vae, hunyuan_vae, ltx_vae, model, video

COSMOS = MappingProxyType(
    {
        "in_channels": 16,
        "out_channels": 16,
        "num_attention_heads": 2,
        "attention_head_dim": 16,
        "num_layers": 2,
        "mlp_ratio": 2,
        "text_embed_dim": 32,
        "adaln_lora_dim": 4,
        "max_size": (4, 32, 32),
        "rope_scale": (2.0, 1.0, 1.0),
        "concat_padding_mask": False,  # with it the forward needs torchvision
    }
)
COSMOS_3 = MappingProxyType(
    {
        "head_dim": 6,
        "hidden_act": "relu2",
        "hidden_size": 6,
        "intermediate_size": 12,
        "latent_channel": 16,
        "latent_patch_size": 1,
        "num_attention_heads": 1,
        "num_hidden_layers": 2,
        "num_key_value_heads": 1,
        "patch_latent_dim": 16,
        "qk_norm_for_text": False,
        "rope_axes_dim": [1, 1, 1],
        "vocab_size": 64,
    }
)
CONSISID = MappingProxyType(
    {
        "num_attention_heads": 2,
        "attention_head_dim": 16,
        "in_channels": 8,
        "out_channels": 4,
        "time_embed_dim": 2,
        "text_embed_dim": 32,
        "num_layers": 2,
        "sample_width": 8,
        "sample_height": 8,
        "sample_frames": 9,
        "max_text_seq_length": 16,
        "cross_attn_interval": 1,
        "is_train_face": True,
        "cross_attn_dim_head": 1,
        "cross_attn_num_heads": 1,
        "LFE_id_dim": 2,
        "LFE_vit_dim": 2,
        "LFE_depth": 5,
        "LFE_num_heads": 8,
        "LFE_num_id_token": 1,
        "LFE_num_querie": 1,
        "LFE_output_dim": 21,
        "LFE_ff_mult": 1,
        "LFE_num_scale": 1,
    }
)
KANDINSKY_6 = MappingProxyType(
    {
        "in_visual_dim": 4,
        "out_visual_dim": 4,
        "in_text_dim": 32,
        "in_text_dim2": 16,
        "time_dim": 16,
        "model_dim": 12,
        "ff_dim": 24,
        "num_text_blocks": 1,
        "num_visual_blocks": 2,
        "axes_dims": (2, 1, 1),
        "in_audio_dim": 4,
        "out_audio_dim": 4,
        "visual_token_type_num_embeddings": 2,
    }
)


class Placed(torch.nn.Module):
    """A module that says where it is, as pipelines ask of their parts."""

    device, dtype = torch.device("cpu"), torch.float32


class Checker(Placed):
    """Stands for the safety checker of Cosmos, a package of its own: all texts and videos are safe."""

    def check_text_safety(self, text: str) -> bool:
        return True


class Controls(Placed):
    """Stands for the ControlNet of Cosmos, which needs torchvision."""

    def forward(self, **unused: Any) -> tuple:
        return ([torch.full((1, 12, 32), 0.1)],)


class Letters:
    """Stands for a tokenizer with a template for chats: one token for each letter."""

    eos_token_id = 1

    def convert_tokens_to_ids(self, token: str) -> int:
        return 2

    def apply_chat_template(self, messages: list, **options: Any) -> Any:
        text = messages[-1]["content"]
        return SimpleNamespace(input_ids=[3 + ord(letter) % 60 for letter in text] or [3])


def cosmos(pipeline: str, channels: int, scheduler: Any, vae: Any, **call: Any) -> Case:
    parts = {"vae": vae, "safety_checker": Checker()}
    transformer = model("CosmosTransformer3DModel", **{**COSMOS, "in_channels": channels})
    return built(pipeline, transformer, scheduler, {**texts(32), **call}, **parts)


def edm() -> Any:
    return diffusers.EDMEulerScheduler(sigma_min=0.002, sigma_max=80.0, sigma_data=0.5)


def cosmos_text() -> Case:
    vae = NoVAE(4, 8, latent_channels=16, latents_mean=None, latents_std=None)
    return cosmos("CosmosTextToWorldPipeline", 16, edm(), vae)


def cosmos_video() -> Case:
    widths = {"encoder_block_out_channels": FOUR, "decode_block_out_channels": FOUR, "patch_size": 2}
    vae = diffusers.AutoencoderKLCosmos(
        latent_channels=16, num_layers=1, temporal_compression_ratio=4, **widths
    )
    return cosmos("CosmosVideoToWorldPipeline", 17, edm(), vae, image=noise_image(0))


def cosmos_2() -> Case:
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(use_karras_sigmas=True)
    return cosmos("Cosmos2VideoToWorldPipeline", 17, scheduler, wan_vae(), image=noise_image(0))


def cosmos_transfer() -> Case:
    parts = {"vae": wan_vae(), "safety_checker": Checker(), "controlnet": Controls()}
    sizes = {**COSMOS, "in_channels": 17, "controlnet_block_every_n": 2}
    call = {**texts(32), "controls": video(), "num_frames_per_chunk": 9}
    transformer = model("CosmosTransformer3DModel", **sizes)
    return built("Cosmos2_5_TransferPipeline", transformer, unipc(), call, **parts)


def cosmos_3() -> Case:
    call = {"prompt": "a dog", "negative_prompt": "bad", "use_system_prompt": False}
    call |= dict.fromkeys(("add_resolution_template", "add_duration_template", "enable_safety_check"), False)
    parts = {"vae": wan_vae(), "text_tokenizer": Letters(), "safety_checker": Checker()}
    transformer = model("Cosmos3OmniTransformer", **COSMOS_3)
    return built("Cosmos3OmniPipeline", transformer, unipc(), call, enable_safety_checker=False, **parts)


def anyflow_far() -> Case:
    transformer = model("AnyFlowFARTransformer3DModel", **WAN, gate_value=0.25, deltatime_type="r")
    call = {**texts(32), "guidance_scale": 3.0, "chunk_partition": [1, 2]}
    scheduler = diffusers.FlowMapEulerDiscreteScheduler()
    return built("AnyFlowFARPipeline", transformer, scheduler, call, vae=wan_vae())


def framepack() -> Case:
    sizes = {**MODELS["hunyuan_video"][1], "patch_size": 2, "image_condition_type": None}
    sizes |= {"has_image_proj": True, "image_proj_dim": 16, "has_clean_x_embedder": True}
    transformer = model("HunyuanVideoFramepackTransformer3DModel", **sizes)
    call = {**hunyuan_call(), "image": noise_image(0), "latent_window_size": 1, "num_frames": 5}
    pipe, call = built("HunyuanVideoFramepackPipeline", transformer, euler(), call, vae=hunyuan_vae())
    pipe.encode_image = lambda *_, **__: noise(1, 8, 16)
    return pipe, call


def consisid() -> Case:
    """Its class needs OpenCV only to draw faces, so it is taken from its module."""
    cls = importlib.import_module("diffusers.pipelines.consisid.pipeline_consisid").ConsisIDPipeline
    call = {**texts(32, length=16), "image": noise_image(0), "height": 16, "width": 16}
    call |= {"id_cond": torch.ones(1, 2), "id_vit_hidden": [torch.ones(1, 2, 2)]}
    scheduler = diffusers.CogVideoXDPMScheduler()
    transformer = model("ConsisIDTransformer3DModel", **CONSISID)
    return built(cls, transformer, scheduler, call, vae=cogvideox_vae())


def hunyuan_15_image() -> Case:
    _, call = hunyuan_video_15()
    call = {name: value for name, value in call.items() if name not in ("height", "width")}
    vae = diffusers.AutoencoderKLHunyuanVideo15(
        latent_channels=4, block_out_channels=(8,) * 5, layers_per_block=1
    )
    parts, call = {"vae": vae, "guider": guider()}, {**call, "image": noise_image(0)}
    transformer = model("hunyuan_video_15", task_type="i2v")
    pipe, call = built("HunyuanVideo15ImageToVideoPipeline", transformer, euler(), call, **parts)
    pipe.encode_image = lambda *_, **__: noise(1, 4, 12)
    return pipe, call


def skyreels_forcing(kind: str, **call: Any) -> Case:
    call = {**texts(16), "prompt": None, "base_num_frames": 9, **call}
    cls = f"SkyReelsV2DiffusionForcing{kind}ToVideoPipeline"
    return built(cls, model("skyreels"), unipc(), call, vae=wan_vae())


def easyanimate(kind: str, channels: int, **call: Any) -> Case:
    """Two faults of diffusers are mended: it reads a setting that its autoencoder does not have, and gives
    `encode_prompt` an argument that this does not take.
    """
    vae = diffusers.AutoencoderKLMagvit(
        latent_channels=4, block_out_channels=FOUR, norm_num_groups=4, layers_per_block=1
    )
    vae.register_to_config(cache_mag_vae=False)
    transformer = model("easyanimate", in_channels=channels, add_noise_in_inpaint_model=kind == "Inpaint")
    call = {**texts(16, masks="_attention_mask"), **call}
    pipe, call = built(f"EasyAnimate{kind}Pipeline", transformer, euler(), call, vae=vae)
    encode = pipe.encode_prompt
    pipe.encode_prompt = lambda text_encoder_index=0, **rest: encode(**rest)
    return pipe, call


def pixels(channels: int) -> torch.Tensor:
    return noise(1, channels, 9, 32, 32).sigmoid()


def helios_pyramid() -> Case:
    call = {**texts(32), "num_frames": 33, "height": 64, "width": 64}
    call["pyramid_num_inference_steps_list"] = [4, 4, 4]
    scheduler = diffusers.HeliosScheduler(gamma=0.25)  # its default is singular on a CPU
    return built("HeliosPyramidPipeline", model("helios"), scheduler, call, vae=wan_vae())


def kandinsky_5_image() -> Case:
    """With less than 21 frames the plain pipeline, too, makes values that are not numbers."""
    _, call = kandinsky5()
    call |= {"image": noise_image(0), "num_frames": 21}
    transformer = with_modulation(model("kandinsky5", visual_cond=True))
    return built("Kandinsky5I2VPipeline", transformer, euler(), call, vae=hunyuan_vae(16))


def kandinsky_6() -> Case:
    call = {"sample_audio": False}
    for sign in ("", "negative_"):
        seed = len(sign)
        call |= {f"{sign}prompt_embeds": noise(1, 8, 32, seed=seed)}
        call |= {f"{sign}pooled_prompt_embeds": noise(1, 16, seed=seed)}
    transformer = with_modulation(model("Kandinsky6Transformer3DModel", **KANDINSKY_6))
    return built("Kandinsky6TI2VAPipeline", transformer, euler(), call, vae=hunyuan_vae())


def kandinsky_6_larger() -> Case:
    sizes = {"in_visual_dim": 4, "out_visual_dim": 4, "time_dim": 16, "model_dim": 24, "ff_dim": 32}
    sizes |= {"num_visual_blocks": 2, "axes_dims": (4, 4, 4), "tile_sizes": ((32, 32), (32, 64), (64, 32))}
    widths = {"encoder_block_out_channels": (4, 8, 8), "decoder_block_out_channels": (4, 8, 8)}
    vae = diffusers.Kandinsky6SRVAE(
        latent_channels=4, layers_per_block=1, temporal_compression_start_level=0, **widths
    )
    call = {"video": noise(5, 3, 16, 32).sigmoid(), "resolution_scale": 2, "output_type": "pt"}
    transformer = with_modulation(model("Kandinsky6SRTransformer3DModel", **sizes))
    return built("Kandinsky6SRPipeline", transformer, euler(), call, vae=vae)


def motif_image() -> Case:
    call = {**texts(32, masks="_attention_mask"), "image": noise_image(0), "prompt": None}
    parts = {"vae": wan_vae(), "guider": guider()}
    return built("MotifVideoImage2VideoPipeline", model("motif_video"), euler(), call, **parts)


def ltx_long() -> Case:
    call = {"prompt": "one|two", "width": 64, "num_frames": 33, "temporal_tile_size": 16}
    call |= {"temporal_overlap": 8, "guidance_scale": 3.0, "sigmas": [1.0, 0.8, 0.5, 0.2, 0.0]}
    scheduler = diffusers.LTXEulerAncestralRFScheduler()
    pipe, call = built("LTXI2VLongMultiPromptPipeline", model("ltx"), scheduler, call, vae=ltx_vae())
    pair = texts(32, masks="_attention_mask")
    names = ("prompt_embeds", "prompt_attention_mask")
    encoded = [pair[f"{sign}{name}"] for sign in ("", "negative_") for name in names]
    pipe.encode_prompt = lambda *_, **__: encoded
    return pipe, call


CASES: MappingProxyType[str, Callable[[], Case]] = MappingProxyType(
    {
        "cosmos_text": cosmos_text,
        "cosmos_video": cosmos_video,
        "cosmos_2": cosmos_2,
        "cosmos_25": lambda: cosmos("Cosmos2_5_PredictBasePipeline", 17, unipc(), wan_vae()),
        "cosmos_transfer": cosmos_transfer,
        "cosmos_3": cosmos_3,
        "anyflow_far": anyflow_far,
        "framepack": framepack,
        "consisid": consisid,
        "hunyuan_15_image": hunyuan_15_image,
        "skyreels_forcing_image": lambda: skyreels_forcing("Image", image=noise_image(0)),
        "skyreels_forcing_video": lambda: skyreels_forcing(
            "Video", video=video(), num_frames=17, overlap_history=1
        ),
        "easyanimate_control": lambda: easyanimate("Control", 12, control_video=pixels(3)),
        "easyanimate_inpaint": lambda: easyanimate("Inpaint", 9, video=pixels(3), mask_video=255 * pixels(1)),
        "helios_pyramid": helios_pyramid,
        "kandinsky_5_image": kandinsky_5_image,
        "kandinsky_6": kandinsky_6,
        "kandinsky_6_larger": kandinsky_6_larger,
        "motif_image": motif_image,
        "ltx_long": ltx_long,
    }
)
