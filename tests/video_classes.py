"""The classes of the installed diffusers that generate videos, and the test cases that have them."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable
from types import MappingProxyType

import diffusers.pipelines

from tests import (
    video_pipelines,
    video_pipelines_ltx2,
    video_pipelines_more,
    video_pipelines_rest,
    video_pipelines_unet,
)
from tests.video_pipelines import Case

MODELS = {"transformer", "unet"}  # what a pipeline must have for a cache
TABLES = (
    video_pipelines,
    video_pipelines_more,
    video_pipelines_rest,
    video_pipelines_ltx2,
    video_pipelines_unet,
)
ALL: MappingProxyType[str, Callable[[], Case]] = MappingProxyType(
    {name: make for table in TABLES for name, make in table.CASES.items()}
)
# The cases of each class.
CASES_OF: MappingProxyType[str, tuple[str, ...]] = MappingProxyType(
    {
        "AllegroPipeline": ("allegro",),
        "AnimateDiffControlNetPipeline": ("animatediff_control",),
        "AnimateDiffPAGPipeline": ("animatediff_pag",),
        "AnimateDiffPipeline": ("animatediff",),
        "AnimateDiffSDXLPipeline": ("animatediff_sdxl",),
        "AnimateDiffSparseControlNetPipeline": ("animatediff_sparse",),
        "AnimateDiffVideoToVideoControlNetPipeline": ("animatediff_video_control",),
        "AnimateDiffVideoToVideoPipeline": ("animatediff_video",),
        "AnyFlowFARPipeline": ("anyflow_far",),
        "AnyFlowPipeline": ("anyflow",),
        "ChronoEditPipeline": ("chronoedit",),
        "CogVideoXFunControlPipeline": ("cogvideox_control",),
        "CogVideoXImageToVideoPipeline": ("cogvideox_image",),
        "CogVideoXPipeline": ("cogvideox", "cogvideox_dpm"),
        "CogVideoXVideoToVideoPipeline": ("cogvideox_video",),
        "ConsisIDPipeline": ("consisid",),
        "Cosmos2VideoToWorldPipeline": ("cosmos_2",),
        "Cosmos2_5_PredictBasePipeline": ("cosmos_25",),
        "Cosmos2_5_TransferPipeline": ("cosmos_transfer",),
        "Cosmos3OmniPipeline": ("cosmos_3",),
        "CosmosTextToWorldPipeline": ("cosmos_text",),
        "CosmosVideoToWorldPipeline": ("cosmos_video",),
        "EasyAnimateControlPipeline": ("easyanimate_control",),
        "EasyAnimateInpaintPipeline": ("easyanimate_inpaint",),
        "EasyAnimatePipeline": ("easyanimate",),
        "HeliosPipeline": ("helios",),
        "HeliosPyramidPipeline": ("helios_pyramid",),
        "HunyuanSkyreelsImageToVideoPipeline": ("hunyuan_skyreels",),
        "HunyuanVideo15ImageToVideoPipeline": ("hunyuan_15_image",),
        "HunyuanVideo15Pipeline": ("hunyuan_video_15",),
        "HunyuanVideoFramepackPipeline": ("framepack",),
        "HunyuanVideoImageToVideoPipeline": ("hunyuan_image_concat", "hunyuan_image_replace"),
        "HunyuanVideoPipeline": ("hunyuan_video", "hunyuan_video_two_calls"),
        "I2VGenXLPipeline": ("i2vgen_xl",),
        "Kandinsky5I2VPipeline": ("kandinsky_5_image",),
        "Kandinsky5T2VPipeline": ("kandinsky5",),
        "Kandinsky6SRPipeline": ("kandinsky_6_larger",),
        "Kandinsky6TI2VAPipeline": ("kandinsky_6",),
        "LTX2ConditionPipeline": ("ltx2_condition",),
        "LTX2DFRPipeline": ("ltx2_dfr",),
        "LTX2DFRTemporalRefinePipeline": ("ltx2_dfr_refine",),
        "LTX2HDRPipeline": ("ltx2_hdr",),
        "LTX2ImageToVideoPipeline": ("ltx2_image",),
        "LTX2InContextPipeline": ("ltx2_in_context",),
        "LTX2Pipeline": ("ltx2",),
        "LTXConditionPipeline": ("ltx_condition",),
        "LTXI2VLongMultiPromptPipeline": ("ltx_long",),
        "LTXImageToVideoPipeline": ("ltx_image",),
        "LTXPipeline": ("ltx",),
        "LattePipeline": ("latte", "latte_heun", "latte_pndm"),
        "LucyEditPipeline": ("lucy_edit",),
        "MochiPipeline": ("mochi",),
        "MotifVideoImage2VideoPipeline": ("motif_image",),
        "MotifVideoPipeline": ("motif_video",),
        "PIAPipeline": ("pia",),
        "SanaImageToVideoPipeline": ("sana_image_to_video",),
        "SanaVideoPipeline": ("sana_video",),
        "SanaWMPipeline": ("sana_wm",),
        "SkyReelsV2DiffusionForcingImageToVideoPipeline": ("skyreels_forcing_image",),
        "SkyReelsV2DiffusionForcingPipeline": ("skyreels_diffusion_forcing",),
        "SkyReelsV2DiffusionForcingVideoToVideoPipeline": ("skyreels_forcing_video",),
        "SkyReelsV2ImageToVideoPipeline": ("skyreels_image_to_video",),
        "SkyReelsV2Pipeline": ("skyreels",),
        "StableVideoDiffusionPipeline": ("stable_video",),
        "TextToVideoSDPipeline": ("text_to_video",),
        "VideoToVideoSDPipeline": ("text_to_video_video",),
        "WanAnimatePipeline": ("wan_animate",),
        "WanImageToVideoPipeline": ("wan_image_encoder", "wan_image_to_video"),
        "WanPipeline": ("wan", "wan_two_models"),
        "WanVACEPipeline": ("wan_vace",),
        "WanVideoToVideoPipeline": ("wan_video_to_video",),
    }
)
# Classes that `cached` refuses, with the reason.
REFUSED = MappingProxyType(
    {
        "TextToVideoZeroPipeline": "its U-Net is one for images, and it replaces its scheduler as it runs",
        "TextToVideoZeroSDXLPipeline": "as TextToVideoZeroPipeline",
    }
)


def class_of(name: str) -> str:
    """The pipeline class of a case."""
    return next(cls for cls, names in CASES_OF.items() if name in names)


def video_classes() -> list[str]:
    """All pipelines of the installed diffusers with a model and an argument for frames or a video."""
    found = set()
    for module in pkgutil.walk_packages(diffusers.pipelines.__path__, "diffusers.pipelines."):
        last = module.name.rpartition(".")[2]
        if not last.startswith("pipeline_") or "flax" in last or "onnx" in last:
            continue
        for name, cls in vars(importlib.import_module(module.name)).items():
            if inspect.isclass(cls) and cls.__module__ == module.name and is_video_class(cls):
                found.add(name)
    return sorted(found)


def is_video_class(cls: type) -> bool:
    """Whether a class is a pipeline that generates videos, by its arguments."""
    if not issubclass(cls, diffusers.DiffusionPipeline):
        return False
    arguments = inspect.signature(cls.__call__).parameters
    has_frames = any("frame" in name or "video" in name for name in arguments)
    return has_frames and bool(MODELS & inspect.signature(cls).parameters.keys())
