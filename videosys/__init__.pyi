"""The public names and where they are: the only list of them."""

from .cache import (
    BWCacheConfig as BWCacheConfig,
    CACHES as CACHES,
    FORECASTS as FORECASTS,
    BestConfig as BestConfig,
    Broadcast as Broadcast,
    Cache as Cache,
    CacheConfig as CacheConfig,
    EasyCacheConfig as EasyCacheConfig,
    Fitted as Fitted,
    FixedCache as FixedCache,
    Forecast as Forecast,
    Goal as Goal,
    Hermite as Hermite,
    Hold as Hold,
    IntervalConfig as IntervalConfig,
    Linear as Linear,
    MagCacheConfig as MagCacheConfig,
    NoCacheConfig as NoCacheConfig,
    PABConfig as PABConfig,
    RecordedCache as RecordedCache,
    ResidualCache as ResidualCache,
    ScheduleConfig as ScheduleConfig,
    SeaCacheConfig as SeaCacheConfig,
    SenCacheConfig as SenCacheConfig,
    StepRecord as StepRecord,
    Taylor as Taylor,
    TeaCache as TeaCache,
    TeaCacheConfig as TeaCacheConfig,
    cache_statistics as cache_statistics,
    plot_steps as plot_steps,
    register_cache as register_cache,
    start as start,
)
from .config import (
    config_to_dict as config_to_dict,
    load_config as load_config,
)
from .estimate.blueprint import (
    Blueprint as Blueprint,
    blueprint as blueprint,
)
from .estimate.work import (
    TransformerWork as TransformerWork,
    transformer_work as transformer_work,
)
from .engine import (
    Handle as Handle,
    VideoSysEngine as VideoSysEngine,
    is_main_process as is_main_process,
)
from .generation.compile import (
    check_compiler as check_compiler,
    compile_blocks as compile_blocks,
    compile_report as compile_report,
)
from .generation.lora import Lora as Lora
from .generation.graphs import graphed as graphed
from .generation.request import VideoOutput as VideoOutput
from .generation.watch import (
    Cancelled as Cancelled,
    StepProgress as StepProgress,
)
from .layers.backends import (
    attend as attend,
    use_attention as use_attention,
)
from .layers.kernels import use_kernels as use_kernels
from .metrics import (
    load_lpips as load_lpips,
    psnr as psnr,
    ssim as ssim,
)
from .models import (
    FAMILIES as FAMILIES,
    Family as Family,
    family_of as family_of,
    load_family_config as load_family_config,
    register_family as register_family,
)
from .models.latte.autoencoder import (
    LatteVAE as LatteVAE,
    LatteVAEConfig as LatteVAEConfig,
)
from .models.latte.config import LatteConfig as LatteConfig
from .models.open_sora_plan.autoencoder import (
    CausalVAE as CausalVAE,
    CausalVAEConfig as CausalVAEConfig,
)
from .models.open_sora_plan.config import OpenSoraPlanConfig as OpenSoraPlanConfig
from .models.open_sora_plan.transformer import (
    OpenSoraT2V as OpenSoraT2V,
    OpenSoraT2VConfig as OpenSoraT2VConfig,
)
from .models.opensora.autoencoder import (
    OpenSoraVAE as OpenSoraVAE,
    OpenSoraVAEConfig as OpenSoraVAEConfig,
)
from .models.opensora.conditioning import Reference as Reference
from .models.opensora.config import OpenSoraConfig as OpenSoraConfig
from .models.opensora.transformer import (
    STDiT3 as STDiT3,
    STDiT3Config as STDiT3Config,
)
from .models.pixart.latte_t2v import (
    LatteT2V as LatteT2V,
    LatteT2VConfig as LatteT2VConfig,
)
from .parallel import (
    Parallel as Parallel,
    ParallelConfig as ParallelConfig,
)
from .pipelines import (
    LattePipeline as LattePipeline,
    OpenSoraPipeline as OpenSoraPipeline,
    OpenSoraPlanPipeline as OpenSoraPlanPipeline,
    TextToVideoPipeline as TextToVideoPipeline,
    pipeline_class as pipeline_class,
)
from .text_encoders.t5 import T5Encoder as T5Encoder
from .utils.checkpoint import (
    load_model as load_model,
    read_config as read_config,
    save_model as save_model,
)
from .utils.clips import is_frame_folder as is_frame_folder
from .utils.command import (
    CommandParser as CommandParser,
    exit_status as exit_status,
    run_command as run_command,
)
from .utils.files import replacing as replacing
from .utils.hub import resolve as resolve
from .utils.interrupts import leave_at_interrupt as leave_at_interrupt
from .utils.logging import configure_logging as configure_logging
from .utils.names import (
    reserved_path as reserved_path,
    unique_path as unique_path,
    video_name as video_name,
)
from .utils.plots import check_matplotlib as check_matplotlib
from .utils.prompts import (
    PromptFile as PromptFile,
    read_prompts as read_prompts,
)
from .utils.reading import (
    load_json as load_json,
    parse_json as parse_json,
)
from .utils.rescue import (
    UnsavedVideo as UnsavedVideo,
    check_room as check_room,
    report_remaining as report_remaining,
)
from .utils.sidecar import write_sidecar as write_sidecar
from .utils.video import (
    check_writable as check_writable,
    read_video as read_video,
    save_video as save_video,
)

__version__: str
