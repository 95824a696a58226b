"""videosys: prompts to videos with Open-Sora, Open-Sora-Plan and Latte, and caches that skip steps.

The public names are imported when they are first used: `import videosys` itself needs no torch.
"""

from __future__ import annotations

import importlib
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from videosys.cache import CACHES as CACHES
    from videosys.cache import FORECASTS as FORECASTS
    from videosys.cache import BestConfig as BestConfig
    from videosys.cache import Broadcast as Broadcast
    from videosys.cache import Cache as Cache
    from videosys.cache import CacheConfig as CacheConfig
    from videosys.cache import Fitted as Fitted
    from videosys.cache import FixedCache as FixedCache
    from videosys.cache import Forecast as Forecast
    from videosys.cache import Goal as Goal
    from videosys.cache import Hold as Hold
    from videosys.cache import IntervalConfig as IntervalConfig
    from videosys.cache import Linear as Linear
    from videosys.cache import MagCacheConfig as MagCacheConfig
    from videosys.cache import NoCacheConfig as NoCacheConfig
    from videosys.cache import PABConfig as PABConfig
    from videosys.cache import RecordedCache as RecordedCache
    from videosys.cache import ResidualCache as ResidualCache
    from videosys.cache import ScheduleConfig as ScheduleConfig
    from videosys.cache import StepRecord as StepRecord
    from videosys.cache import TeaCache as TeaCache
    from videosys.cache import TeaCacheConfig as TeaCacheConfig
    from videosys.cache import cache_statistics as cache_statistics
    from videosys.cache import plot_steps as plot_steps
    from videosys.cache import register_cache as register_cache
    from videosys.cache import start as start
    from videosys.config import config_to_dict as config_to_dict
    from videosys.config import load_config as load_config
    from videosys.engine import VideoSysEngine as VideoSysEngine
    from videosys.engine import is_main_process as is_main_process
    from videosys.generation.compile import check_compiler as check_compiler
    from videosys.generation.compile import compile_blocks as compile_blocks
    from videosys.generation.compile import compile_report as compile_report
    from videosys.generation.request import VideoOutput as VideoOutput
    from videosys.layers.backends import attend as attend
    from videosys.layers.backends import use_attention as use_attention
    from videosys.metrics import load_lpips as load_lpips
    from videosys.metrics import psnr as psnr
    from videosys.metrics import ssim as ssim
    from videosys.models import FAMILIES as FAMILIES
    from videosys.models import Family as Family
    from videosys.models import family_of as family_of
    from videosys.models import load_family_config as load_family_config
    from videosys.models import register_family as register_family
    from videosys.models.latte.autoencoder import LatteVAE as LatteVAE
    from videosys.models.latte.autoencoder import LatteVAEConfig as LatteVAEConfig
    from videosys.models.latte.config import LatteConfig as LatteConfig
    from videosys.models.latte.pipeline import LattePipeline as LattePipeline
    from videosys.models.open_sora_plan.autoencoder import CausalVAE as CausalVAE
    from videosys.models.open_sora_plan.autoencoder import CausalVAEConfig as CausalVAEConfig
    from videosys.models.open_sora_plan.config import OpenSoraPlanConfig as OpenSoraPlanConfig
    from videosys.models.open_sora_plan.pipeline import OpenSoraPlanPipeline as OpenSoraPlanPipeline
    from videosys.models.open_sora_plan.transformer import OpenSoraT2V as OpenSoraT2V
    from videosys.models.open_sora_plan.transformer import OpenSoraT2VConfig as OpenSoraT2VConfig
    from videosys.models.opensora.autoencoder import OpenSoraVAE as OpenSoraVAE
    from videosys.models.opensora.autoencoder import OpenSoraVAEConfig as OpenSoraVAEConfig
    from videosys.models.opensora.conditioning import Reference as Reference
    from videosys.models.opensora.config import OpenSoraConfig as OpenSoraConfig
    from videosys.models.opensora.pipeline import OpenSoraPipeline as OpenSoraPipeline
    from videosys.models.opensora.transformer import STDiT3 as STDiT3
    from videosys.models.opensora.transformer import STDiT3Config as STDiT3Config
    from videosys.models.pixart.latte_t2v import LatteT2V as LatteT2V
    from videosys.models.pixart.latte_t2v import LatteT2VConfig as LatteT2VConfig
    from videosys.parallel import Parallel as Parallel
    from videosys.parallel import ParallelConfig as ParallelConfig
    from videosys.text_encoders.t5 import T5Encoder as T5Encoder
    from videosys.utils.checkpoint import load_model as load_model
    from videosys.utils.checkpoint import read_config as read_config
    from videosys.utils.checkpoint import save_model as save_model
    from videosys.utils.files import replacing as replacing
    from videosys.utils.hub import resolve as resolve
    from videosys.utils.logging import configure_logging as configure_logging
    from videosys.utils.names import reserved_path as reserved_path
    from videosys.utils.names import unique_path as unique_path
    from videosys.utils.names import video_name as video_name
    from videosys.utils.plots import check_matplotlib as check_matplotlib
    from videosys.utils.sidecar import write_sidecar as write_sidecar
    from videosys.utils.video import check_writable as check_writable
    from videosys.utils.video import read_video as read_video
    from videosys.utils.video import save_video as save_video

__version__ = "0.1.0"

_HOMES = MappingProxyType(
    {
        "FAMILIES": "videosys.models",
        "Family": "videosys.models",
        "family_of": "videosys.models",
        "load_family_config": "videosys.models",
        "register_family": "videosys.models",
        "BestConfig": "videosys.cache",
        "Broadcast": "videosys.cache",
        "CACHES": "videosys.cache",
        "Cache": "videosys.cache",
        "CacheConfig": "videosys.cache",
        "CausalVAE": "videosys.models.open_sora_plan.autoencoder",
        "CausalVAEConfig": "videosys.models.open_sora_plan.autoencoder",
        "FORECASTS": "videosys.cache",
        "Fitted": "videosys.cache",
        "FixedCache": "videosys.cache",
        "Forecast": "videosys.cache",
        "Goal": "videosys.cache",
        "Hold": "videosys.cache",
        "IntervalConfig": "videosys.cache",
        "LatteConfig": "videosys.models.latte.config",
        "LattePipeline": "videosys.models.latte.pipeline",
        "LatteT2V": "videosys.models.pixart.latte_t2v",
        "LatteT2VConfig": "videosys.models.pixart.latte_t2v",
        "LatteVAE": "videosys.models.latte.autoencoder",
        "LatteVAEConfig": "videosys.models.latte.autoencoder",
        "Linear": "videosys.cache",
        "MagCacheConfig": "videosys.cache",
        "NoCacheConfig": "videosys.cache",
        "OpenSoraConfig": "videosys.models.opensora.config",
        "OpenSoraPipeline": "videosys.models.opensora.pipeline",
        "OpenSoraPlanConfig": "videosys.models.open_sora_plan.config",
        "OpenSoraPlanPipeline": "videosys.models.open_sora_plan.pipeline",
        "OpenSoraT2V": "videosys.models.open_sora_plan.transformer",
        "OpenSoraT2VConfig": "videosys.models.open_sora_plan.transformer",
        "OpenSoraVAE": "videosys.models.opensora.autoencoder",
        "OpenSoraVAEConfig": "videosys.models.opensora.autoencoder",
        "PABConfig": "videosys.cache",
        "Parallel": "videosys.parallel",
        "ParallelConfig": "videosys.parallel",
        "RecordedCache": "videosys.cache",
        "Reference": "videosys.models.opensora.conditioning",
        "ResidualCache": "videosys.cache",
        "STDiT3": "videosys.models.opensora.transformer",
        "STDiT3Config": "videosys.models.opensora.transformer",
        "ScheduleConfig": "videosys.cache",
        "StepRecord": "videosys.cache",
        "T5Encoder": "videosys.text_encoders.t5",
        "TeaCache": "videosys.cache",
        "TeaCacheConfig": "videosys.cache",
        "VideoOutput": "videosys.generation.request",
        "VideoSysEngine": "videosys.engine",
        "attend": "videosys.layers.backends",
        "cache_statistics": "videosys.cache",
        "check_compiler": "videosys.generation.compile",
        "check_matplotlib": "videosys.utils.plots",
        "check_writable": "videosys.utils.video",
        "compile_blocks": "videosys.generation.compile",
        "compile_report": "videosys.generation.compile",
        "config_to_dict": "videosys.config",
        "configure_logging": "videosys.utils.logging",
        "is_main_process": "videosys.engine",
        "load_config": "videosys.config",
        "load_lpips": "videosys.metrics",
        "load_model": "videosys.utils.checkpoint",
        "plot_steps": "videosys.cache",
        "psnr": "videosys.metrics",
        "read_config": "videosys.utils.checkpoint",
        "read_video": "videosys.utils.video",
        "register_cache": "videosys.cache",
        "replacing": "videosys.utils.files",
        "reserved_path": "videosys.utils.names",
        "resolve": "videosys.utils.hub",
        "save_model": "videosys.utils.checkpoint",
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
