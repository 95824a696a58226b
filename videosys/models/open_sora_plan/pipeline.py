"""Open-Sora-Plan v1.1.0 and v1.2.0: prompts to videos."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import torch

from videosys.cache import CACHES, CacheConfig, NoCacheConfig, PABConfig, TeaCacheConfig
from videosys.generation import base
from videosys.generation.pipeline import Loader, Pipeline, check_channels
from videosys.generation.text_to_video import (
    Encoded,
    Text,
    TextToVideoConfig,
    TextToVideoPipeline,
    cut_pair,
    masked_pair,
)
from videosys.layers.tiling import Tiling, tiling_preset
from videosys.models.open_sora_plan.transformer import OpenSoraT2V, OpenSoraT2VConfig
from videosys.models.pixart.latte_t2v import LatteT2V, LatteT2VConfig
from videosys.parallel import Parallel
from videosys.schedulers import Sampler, euler_ancestral, pndm
from videosys.schedulers.build import PNDM_MIN_STEPS
from videosys.utils.checkpoint import read_config
from videosys.utils.hub import PATTERNS
from videosys.utils.typed import check_types, listing, suggest

__all__ = ["OpenSoraPlanConfig", "OpenSoraPlanPipeline"]

Version = Literal["v110", "v120"]
PLACEHOLDER = "{prompt}"


@dataclass(frozen=True)
class Release:
    """What was published with a version."""

    repository: str
    text_encoder: str
    max_tokens: int
    types: Mapping[str, tuple[int, int, int]]  # frames, height and width by checkpoint; the first is usual
    steps: int
    least_steps: int
    template: str
    negative: str
    keeps_chinese: bool
    coefficients: tuple[float, ...] | None  # of TeaCache, highest power first


RELEASES: Mapping[Version, Release] = MappingProxyType(
    {
        "v110": Release(
            repository="LanguageBind/Open-Sora-Plan-v1.1.0",
            text_encoder="DeepFloyd/t5-v1_1-xxl",
            max_tokens=300,
            types=MappingProxyType({"65x512x512": (65, 512, 512), "221x512x512": (221, 512, 512)}),
            steps=150,
            least_steps=PNDM_MIN_STEPS,
            template=PLACEHOLDER,
            negative="",
            keeps_chinese=False,
            coefficients=(2.05943668e05, -1.48759286e04, 3.06085986e02, 1.31418080e00, 2.39658469e-03),
        ),
        "v120": Release(
            repository="LanguageBind/Open-Sora-Plan-v1.2.0",
            text_encoder="google/mt5-xxl",
            max_tokens=512,
            types=MappingProxyType(
                {
                    "29x480p": (29, 480, 640),
                    "93x480p": (93, 480, 640),
                    "29x720p": (29, 720, 1280),
                    "93x720p": (93, 720, 1280),
                }
            ),
            steps=100,
            least_steps=1,
            template=f"(masterpiece), (best quality), (ultra-detailed), {PLACEHOLDER}.",
            negative=(
                "nsfw, lowres, bad anatomy, bad hands, text, error, missing fingers, extra digit, fewer "
                "digits, cropped, worst quality, low quality, normal quality, jpeg artifacts, signature, "
                "watermark, username, blurry."
            ),
            keeps_chinese=True,
            coefficients=None,
        ),
    }
)
NATIVE_VIDEO_LENGTH = 16  # latent frames of v1.1.0 up to which positions are not squeezed
NAIVE = (1.0, 0.0)
# Published with PAB; v1.2.0 has joint blocks only, and reuses no MLP. The places are for 150 steps.
PAB_WINDOW = (100.0, 850.0)
PAB_MLP = tuple((738.0 - 24 * i, 2, (0, 1, 2, 3, 4, 5, 6)) for i in range(14))
PLAN_CACHES = MappingProxyType(
    {
        **CACHES,
        # Coefficients are those of the version.
        "teacache_slow": TeaCacheConfig(threshold=0.1),
        "teacache_fast": TeaCacheConfig(threshold=0.2),
        "teacache_naive": TeaCacheConfig(threshold=0.1, coefficients=NAIVE),
        "pab": PABConfig.pyramid((2, 4, 6), PAB_WINDOW, PAB_MLP),
        "pab_slow": PABConfig.pyramid((2, 4, 6), PAB_WINDOW, PAB_MLP),
        "pab_fast": PABConfig.pyramid((5, 7, 9), PAB_WINDOW, PAB_MLP),
    }
)
WEIGHTS = (*PATTERNS, "*.bin", "*.ckpt")  # the autoencoder of v1.2.0 is a .ckpt file


@dataclass(frozen=True)
class OpenSoraPlanConfig(TextToVideoConfig):
    """Everything a user chooses; the defaults are those published with the version.

    version: v110 or v120. transformer_type: one of its checkpoints, such as 65x512x512 or 93x480p, which
        also sets the size of the video; None for the smallest.
    transformer, vae, text_encoder: hub ids or local folders, of the part itself or of all parts, the
        transformer in a folder named by its type; None for the published ones.
    tiling: how the autoencoder cuts what it decodes: none, or a preset such as v110, v120, v120_save_memory
        or videosys; auto is the one of the version's own script.

    The rest can be given anew with each request:
    prompt_template: words around each prompt, which stands at {prompt}; None for the published ones.
    """

    version: Version = "v120"
    transformer_type: str | None = None
    transformer: str | None = None
    vae: str | None = None
    text_encoder: str | None = None
    tiling: str = "auto"

    prompt_template: str | None = None
    cache: CacheConfig = field(default_factory=NoCacheConfig, metadata={"registry": PLAN_CACHES})

    def __post_init__(self) -> None:
        check_types(self)
        if self.transformer_type is not None and self.transformer_type not in self.release.types:
            types = self.release.types
            raise ValueError(
                f"transformer_type is {self.transformer_type!r}{suggest(self.transformer_type, types)}; "
                f"allowed with {self.version}: {listing(types)}"
            )
        super().__post_init__()
        if PLACEHOLDER not in self.template:
            raise ValueError(f"prompt_template is {self.template!r}; it must hold {PLACEHOLDER}")
        self.tiles()

    @property
    def release(self) -> Release:
        return RELEASES[self.version]

    @property
    def checkpoint(self) -> str:
        """The name of the transformer's checkpoint."""
        return self.transformer_type or next(iter(self.release.types))

    @property
    def model_name(self) -> str:
        return f"open_sora_plan_{self.version}"

    @property
    def scheduler_name(self) -> str:
        return "pndm" if self.version == "v110" else "euler_ancestral"

    @property
    def size(self) -> tuple[int, int]:
        _, height, width = self.release.types[self.checkpoint]
        return self.height or height, self.width or width

    @property
    def output_frames(self) -> int:
        return self.num_frames or self.release.types[self.checkpoint][0]

    @property
    def steps(self) -> int:
        return self.num_inference_steps or self.release.steps

    @property
    def steps_allowed(self) -> tuple[int, int]:
        return self.release.least_steps, 1000

    @property
    def template(self) -> str:
        return self.release.template if self.prompt_template is None else self.prompt_template

    @property
    def negative(self) -> str:
        return self.release.negative if self.negative_prompt is None else self.negative_prompt

    @property
    def keeps_chinese(self) -> bool:
        return self.release.keeps_chinese

    @property
    def reads_padding(self) -> bool:
        return self.version == "v110"  # v1.2.0 is given the masks

    def positive(self, prompt: str) -> str:
        return self.template.replace(PLACEHOLDER, prompt)

    def tiles(self) -> Tiling | None:
        """How the autoencoder cuts what it decodes."""
        if self.tiling == "none":
            return None
        return tiling_preset(self.version if self.tiling == "auto" else self.tiling)

    def settled_cache(self) -> CacheConfig:
        """TeaCache without coefficients gets the published ones; v1.2.0 has none, and says so."""
        own = self.cache if isinstance(self.cache, TeaCacheConfig) else None
        is_open = own and own.coefficients is None and own.signal == "modulated"
        if is_open and self.release.coefficients is None:
            warnings.warn(
                f"no TeaCache coefficients are published for Open-Sora-Plan {self.version}: distances are "
                "compared with the threshold as they are (coefficients [1, 0])",
                stacklevel=2,
            )
        return base.with_coefficients(self.cache, self.release.coefficients or NAIVE)


@dataclass(frozen=True)
class Told:
    """Fields of a transformer's config.json that may be missing: the trained length is v1.1.0's, and only
    v1.2.0 has rotary positions.
    """

    video_length: int | None = None
    use_rope: bool | None = None


class OpenSoraPlanPipeline(TextToVideoPipeline[Any]):
    """Prompts to videos with Open-Sora-Plan."""

    loading_fields = Pipeline.loading_fields | {"version", "transformer_type", "tiling"}

    @classmethod
    def from_config(
        cls, config: OpenSoraPlanConfig, quiet: bool = False, parallel: Parallel = Parallel()
    ) -> OpenSoraPlanPipeline:
        from videosys.models.open_sora_plan.autoencoder import CausalVAE, CausalVAEConfig

        loader, release = Loader(config, quiet, parallel), config.release
        repository = release.repository
        model_folder = loader.find(config.transformer or repository, config.checkpoint, WEIGHTS)
        vae_folder = loader.find(config.vae or repository, "vae", WEIGHTS)
        vae_config = read_config(CausalVAEConfig, vae_folder)
        text_encoder = config.text_encoder or release.text_encoder
        model_cls = LatteT2V if config.version == "v110" else OpenSoraT2V
        model_config = read_model_config(config, model_folder, vae_config)
        check_channels(model_config, model_folder, vae_config, vae_folder)
        made = cls(
            loader.text_encoder(text_encoder, release.max_tokens, model_config.caption_channels),
            loader.transformer(model_cls, model_config, model_folder),
            loader.model(CausalVAE, vae_config, vae_folder, tiling=config.tiles()),
            model_config,
            vae_config,
            parallel,
        )
        made.check_parallel(config)
        return made

    def to_vae(self, latents: torch.Tensor) -> torch.Tensor:
        return latents / self.vae_config.scaling_factor

    def sampler(self, config: OpenSoraPlanConfig, sources: Sequence[torch.Generator]) -> Sampler:
        return (
            pndm(config.steps)
            if config.version == "v110"
            else euler_ancestral(config.steps, generator=sources)
        )

    def pair(self, prompts: Sequence[Text], negative: Text | None, config: OpenSoraPlanConfig) -> Encoded:
        return cut_pair(prompts, negative) if config.version == "v110" else masked_pair(prompts, negative)


def read_model_config(
    config: OpenSoraPlanConfig, folder: Path, vae_config: Any
) -> LatteT2VConfig | OpenSoraT2VConfig:
    """The transformer's config; where v1.1.0's does not say how many latent frames it was trained on, as
    many as its published videos have.
    """
    told = read_config(Told, folder)
    if told.use_rope is not None and told.use_rope != (config.version == "v120"):
        held = "v120" if told.use_rope else "v110"
        raise ValueError(f"version is {config.version!r}, but {folder} holds a transformer of {held!r}")
    if config.version == "v120":
        return read_config(OpenSoraT2VConfig, folder)
    model_config = read_config(LatteT2VConfig, folder)
    if told.video_length is None:
        frames = config.release.types[config.checkpoint]
        model_config = replace(model_config, video_length=vae_config.latent_size(*frames)[0])
    return with_frame_scale(model_config)


def with_frame_scale(model_config: LatteT2VConfig) -> LatteT2VConfig:
    """The config of a v1.1.0 transformer, which divides frame numbers by the whole multiples of 16 in its
    trained length (1 for 65 frames, 3 for 221) unless its file says otherwise.
    """
    if model_config.interpolation_scale_1d is not None:
        return model_config
    even = model_config.video_length - model_config.video_length % 2
    return replace(model_config, interpolation_scale_1d=float(max(even // NATIVE_VIDEO_LENGTH, 1)))
