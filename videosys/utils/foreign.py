"""Names of settings in other libraries, and their names here. docs/coming-from.md has the same list."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

DIFFUSERS, VIDEOSYS, TEACACHE = "diffusers", "VideoSys", "TeaCache"
NOTHING = "nothing"


class Foreign(NamedTuple):
    """names: the names in `library`. here: our name, as a user writes it, or `NOTHING` with the reason."""

    library: str
    names: tuple[str, ...]
    here: str


FOREIGN = (
    Foreign(DIFFUSERS, ("num_images_per_prompt", "num_videos"), "num_videos_per_prompt"),
    Foreign(DIFFUSERS, ("guidance", "true_cfg_scale", "cfg"), "guidance_scale"),
    Foreign(DIFFUSERS, ("steps", "num_steps", "inference_steps"), "num_inference_steps"),
    Foreign(DIFFUSERS, ("timesteps", "sigmas"), "scheduler and num_inference_steps"),
    Foreign(DIFFUSERS, ("frames", "video_length", "n_frames", "num_video_frames"), "num_frames"),
    Foreign(
        DIFFUSERS, ("generator", "generators"), "seed, a whole number; video j of a prompt uses seed + j"
    ),
    Foreign(
        DIFFUSERS,
        ("callback_on_step_end", "callback_steps", "callback_on_step_end_tensor_inputs"),
        "callback of engine.generate, which gets a StepProgress",
    ),
    Foreign(DIFFUSERS, ("return_dict",), f"{NOTHING}: engine.generate returns a VideoOutput"),
    Foreign(DIFFUSERS, ("prompt_attention_mask", "prompt_embeds_mask"), "prompt_mask of engine.generate"),
    Foreign(
        DIFFUSERS,
        ("negative_prompt_attention_mask", "negative_prompt_embeds_mask"),
        "negative_prompt_mask of engine.generate",
    ),
    Foreign(
        DIFFUSERS, ("image", "images", "video"), "references of engine.generate, where the model takes them"
    ),
    Foreign(DIFFUSERS, ("max_sequence_length",), f"{NOTHING}: it is the model's own number of tokens"),
    Foreign(DIFFUSERS, ("torch_dtype",), 'dtype, a text such as "bfloat16"'),
    Foreign(DIFFUSERS, ("device_map",), "device, num_gpus and offload"),
    Foreign(DIFFUSERS, ("enable_model_cpu_offload",), "offload: stage"),
    Foreign(
        DIFFUSERS,
        ("enable_sequential_cpu_offload", "enable_group_offload", "group_offload"),
        "offload: group",
    ),
    Foreign(DIFFUSERS, ("quantization_config", "enable_layerwise_casting"), "storage_dtype: float8_e4m3fn"),
    Foreign(DIFFUSERS, ("torch_compile", "compile_transformer"), "compile: blocks"),
    Foreign(
        DIFFUSERS, ("enable_tiling", "vae_tiling"), "enable_vae_tiling or tiling, where the model has it"
    ),
    Foreign(DIFFUSERS, ("attn_implementation", "attention_backend"), "attention"),
    Foreign(
        DIFFUSERS,
        ("attention_kwargs", "cross_attention_kwargs", "joint_attention_kwargs", "lora_scale"),
        "lora: [{path: FILE, scale: 0.8}] of the config, or engine.set_lora",
    ),
    Foreign(
        DIFFUSERS,
        ("lora_path", "lora_weights", "load_lora_weights", "adapter_name", "loras"),
        "lora: [{path: FILE, scale: 0.8}] of the config, or engine.set_lora",
    ),
    Foreign(DIFFUSERS, ("local_files_only",), "offline: true"),
    Foreign(DIFFUSERS, ("cache_dir", "token"), f"{NOTHING}: the environment's HF_HOME and HF_TOKEN"),
    Foreign(DIFFUSERS, ("variant", "use_safetensors"), f"{NOTHING}: any file is read and converted to dtype"),
    Foreign(
        DIFFUSERS,
        ("pretrained_model_name_or_path", "model", "model_path", "model_id"),
        "transformer, vae and text_encoder, or XPipeline.from_pretrained",
    ),
    Foreign(VIDEOSYS, ("enable_pab",), "cache: pab"),
    Foreign(VIDEOSYS, ("pab_config",), "cache: {name: pab, spatial: {...}}"),
    Foreign(
        VIDEOSYS,
        ("spatial_broadcast", "spatial_range", "spatial_threshold"),
        "cache: {name: pab, spatial: {range: 2, window: [0.15, 0.85]}}",
    ),
    Foreign(
        VIDEOSYS,
        ("temporal_broadcast", "temporal_range", "temporal_threshold"),
        "cache: {name: pab, temporal: {range: 4, window: [0.15, 0.85]}}",
    ),
    Foreign(
        VIDEOSYS,
        ("cross_broadcast", "cross_range", "cross_threshold"),
        "cache: {name: pab, cross: {range: 6, window: [0.15, 0.85]}}",
    ),
    Foreign(
        VIDEOSYS,
        ("mlp_broadcast", "mlp_spatial_broadcast_config", "mlp_temporal_broadcast_config"),
        "cache: {name: pab, mlp_spatial: [[0.3, 2, [0, 1, 2]]]}",
    ),
    Foreign(VIDEOSYS, ("num_sampling_steps",), "num_inference_steps"),
    Foreign(VIDEOSYS, ("cfg_scale",), "guidance_scale"),
    Foreign(VIDEOSYS, ("cpu_offload",), "offload: stage"),
    Foreign(VIDEOSYS, ("tiling_size", "tile_overlap_factor"), "tiling, where the model has it"),
    Foreign(VIDEOSYS, ("loop",), "loops"),
    Foreign(VIDEOSYS, ("ms",), "mask_strategy"),
    Foreign(VIDEOSYS, ("refs", "reference_path"), "reference_paths"),
    Foreign(VIDEOSYS, ("llm_refine",), f"{NOTHING}: prompts are not rewritten"),
    Foreign(VIDEOSYS, ("verbose",), "quiet of VideoSysEngine"),
    Foreign(VIDEOSYS, ("enable_flash_attn", "enable_flashattn"), "attention: flash_attn"),
    Foreign(VIDEOSYS, ("enable_layernorm_kernel",), "kernels: auto"),
    Foreign(VIDEOSYS, ("sp_size", "enable_sequence_parallelism", "ulysses_degree"), "parallel: {sp: 2}"),
    Foreign(VIDEOSYS, ("dp_size",), "parallel: {dp: 2}"),
    Foreign(VIDEOSYS, ("enable_cfg_parallel", "cfg_parallel"), "parallel: {cfg: 2}"),
    Foreign(VIDEOSYS, ("world_size", "num_devices"), "num_gpus"),
    Foreign(TEACACHE, ("enable_teacache", "teacache"), "cache: teacache_slow, or teacache_fast"),
    Foreign(
        TEACACHE,
        ("rel_l1_thresh", "teacache_thresh", "rel_l1_threshold"),
        "cache: {name: teacache, threshold: 0.1}",
    ),
    Foreign(TEACACHE, ("coefficients",), "cache: {name: teacache, coefficients: [...]}"),
    Foreign(
        TEACACHE, ("use_ret_steps", "ret_steps"), f"{NOTHING}: the first and the last step always compute"
    ),
)
# Inputs of a request, not settings of a config, with the same names as in diffusers.
INPUTS = (
    "prompt",
    "prompts",
    "callback",
    "latents",
    "prompt_embeds",
    "prompt_mask",
    "negative_prompt_embeds",
    "negative_prompt_mask",
    "output_type",
    "references",
)


def foreign_name(name: object, known: Collection[str] = (), section: str = "") -> str:
    """The text to add to an error about an unknown name: " (...)" with our name, or with the reason why the
    model does not have it; "" if no library has the name.

    known: the names that are allowed. section: the section of the config that has the name, such as "cache";
    there, only names whose counterpart is in the same section are answered.
    """
    for library, names, here in FOREIGN:
        if name in names and (not section or here in known or here.startswith(f"{section}: ")):
            return f" ({library}'s name; here it is {here})"
    if section:
        return ""
    if name == "negative_prompt":
        return " (this model was not made to be guided by a negative prompt)"
    if name in INPUTS and name not in known:
        return f" (an input of engine.generate, not a setting: engine.generate(..., {name}=...))"
    return ""
