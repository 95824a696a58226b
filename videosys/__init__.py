"""videosys: prompts to videos with Open-Sora, Open-Sora-Plan and Latte, and caches that skip steps.

The public names are imported when they are first used: `import videosys` itself needs no torch.
"""

from __future__ import annotations

import importlib
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from videosys.autoencoders.causal_vae import CausalVAE as CausalVAE
    from videosys.autoencoders.causal_vae import CausalVAEConfig as CausalVAEConfig
    from videosys.autoencoders.latte import LatteVAE as LatteVAE
    from videosys.autoencoders.latte import LatteVAEConfig as LatteVAEConfig
    from videosys.autoencoders.opensora import OpenSoraVAE as OpenSoraVAE
    from videosys.autoencoders.opensora import OpenSoraVAEConfig as OpenSoraVAEConfig
    from videosys.cache import BestConfig as BestConfig
    from videosys.cache import Broadcast as Broadcast
    from videosys.cache import Fitted as Fitted
    from videosys.cache import Hold as Hold
    from videosys.cache import IntervalConfig as IntervalConfig
    from videosys.cache import Linear as Linear
    from videosys.cache import MagCacheConfig as MagCacheConfig
    from videosys.cache import NoCacheConfig as NoCacheConfig
    from videosys.cache import PABConfig as PABConfig
    from videosys.cache import ScheduleConfig as ScheduleConfig
    from videosys.cache import StepRecord as StepRecord
    from videosys.cache import TeaCache as TeaCache
    from videosys.cache import TeaCacheConfig as TeaCacheConfig
    from videosys.cache import cache_statistics as cache_statistics
    from videosys.cache import plot_steps as plot_steps
    from videosys.cache import start as start
    from videosys.config import config_to_dict as config_to_dict
    from videosys.config import load_config as load_config
    from videosys.engine import VideoSysEngine as VideoSysEngine
    from videosys.engine import is_main_process as is_main_process
    from videosys.layers.backends import attend as attend
    from videosys.layers.backends import use_attention as use_attention
    from videosys.metrics import load_lpips as load_lpips
    from videosys.metrics import psnr as psnr
    from videosys.metrics import ssim as ssim
    from videosys.models.latte import LatteT2V as LatteT2V
    from videosys.models.latte import LatteT2VConfig as LatteT2VConfig
    from videosys.models.open_sora_plan import OpenSoraT2V as OpenSoraT2V
    from videosys.models.open_sora_plan import OpenSoraT2VConfig as OpenSoraT2VConfig
    from videosys.models.opensora import STDiT3 as STDiT3
    from videosys.models.opensora import STDiT3Config as STDiT3Config
    from videosys.parallel import Parallel as Parallel
    from videosys.parallel import ParallelConfig as ParallelConfig
    from videosys.pipelines.base import VideoOutput as VideoOutput
    from videosys.pipelines.compiling import check_compiler as check_compiler
    from videosys.pipelines.compiling import compile_blocks as compile_blocks
    from videosys.pipelines.compiling import compile_report as compile_report
    from videosys.pipelines.latte import LatteConfig as LatteConfig
    from videosys.pipelines.latte import LattePipeline as LattePipeline
    from videosys.pipelines.open_sora_plan import OpenSoraPlanConfig as OpenSoraPlanConfig
    from videosys.pipelines.open_sora_plan import OpenSoraPlanPipeline as OpenSoraPlanPipeline
    from videosys.pipelines.opensora import OpenSoraPipeline as OpenSoraPipeline
    from videosys.pipelines.opensora_conditioning import Reference as Reference
    from videosys.pipelines.opensora_config import OpenSoraConfig as OpenSoraConfig
    from videosys.utils.files import replacing as replacing
    from videosys.utils.logging import configure_logging as configure_logging
    from videosys.utils.names import reserved_path as reserved_path
    from videosys.utils.names import unique_path as unique_path
    from videosys.utils.names import video_name as video_name
    from videosys.utils.sidecar import write_sidecar as write_sidecar
    from videosys.utils.video import check_writable as check_writable
    from videosys.utils.video import read_video as read_video
    from videosys.utils.video import save_video as save_video

__version__ = "0.1.0"

_HOMES = MappingProxyType(
    {
        "BestConfig": "videosys.cache",
        "Broadcast": "videosys.cache",
        "CausalVAE": "videosys.autoencoders.causal_vae",
        "CausalVAEConfig": "videosys.autoencoders.causal_vae",
        "Fitted": "videosys.cache",
        "Hold": "videosys.cache",
        "IntervalConfig": "videosys.cache",
        "LatteConfig": "videosys.pipelines.latte",
        "LattePipeline": "videosys.pipelines.latte",
        "LatteT2V": "videosys.models.latte",
        "LatteT2VConfig": "videosys.models.latte",
        "LatteVAE": "videosys.autoencoders.latte",
        "LatteVAEConfig": "videosys.autoencoders.latte",
        "Linear": "videosys.cache",
        "MagCacheConfig": "videosys.cache",
        "NoCacheConfig": "videosys.cache",
        "OpenSoraConfig": "videosys.pipelines.opensora_config",
        "OpenSoraPipeline": "videosys.pipelines.opensora",
        "OpenSoraPlanConfig": "videosys.pipelines.open_sora_plan",
        "OpenSoraPlanPipeline": "videosys.pipelines.open_sora_plan",
        "OpenSoraT2V": "videosys.models.open_sora_plan",
        "OpenSoraT2VConfig": "videosys.models.open_sora_plan",
        "OpenSoraVAE": "videosys.autoencoders.opensora",
        "OpenSoraVAEConfig": "videosys.autoencoders.opensora",
        "PABConfig": "videosys.cache",
        "Parallel": "videosys.parallel",
        "ParallelConfig": "videosys.parallel",
        "Reference": "videosys.pipelines.opensora_conditioning",
        "STDiT3": "videosys.models.opensora",
        "STDiT3Config": "videosys.models.opensora",
        "ScheduleConfig": "videosys.cache",
        "StepRecord": "videosys.cache",
        "TeaCache": "videosys.cache",
        "TeaCacheConfig": "videosys.cache",
        "VideoOutput": "videosys.pipelines.base",
        "VideoSysEngine": "videosys.engine",
        "attend": "videosys.layers.backends",
        "cache_statistics": "videosys.cache",
        "check_compiler": "videosys.pipelines.compiling",
        "check_writable": "videosys.utils.video",
        "compile_blocks": "videosys.pipelines.compiling",
        "compile_report": "videosys.pipelines.compiling",
        "config_to_dict": "videosys.config",
        "configure_logging": "videosys.utils.logging",
        "is_main_process": "videosys.engine",
        "load_config": "videosys.config",
        "load_lpips": "videosys.metrics",
        "plot_steps": "videosys.cache",
        "psnr": "videosys.metrics",
        "read_video": "videosys.utils.video",
        "replacing": "videosys.utils.files",
        "reserved_path": "videosys.utils.names",
        "save_video": "videosys.utils.video",
        "ssim": "videosys.metrics",
        "start": "videosys.cache",
        "unique_path": "videosys.utils.names",
        "use_attention": "videosys.layers.backends",
        "video_name": "videosys.utils.names",
        "write_sidecar": "videosys.utils.sidecar",
    }
)
__all__ = [*_HOMES]  # noqa: PLE0604 (names of the table)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
