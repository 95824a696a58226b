"""User settings of Open-Sora-Plan."""

from __future__ import annotations

from dataclasses import dataclass

from videosys.cache import CacheConfig
from videosys.generation.config import NegativePromptConfig, cache_field, loading
from videosys.layers.tiling import Tiling, tiling_preset
from videosys.models.open_sora_plan.presets import PLACEHOLDER, PRESETS, RELEASES, Release, Version
from videosys.utils.typed import listing, suggest


@dataclass(frozen=True)
class OpenSoraPlanConfig(NegativePromptConfig):
    """All user settings; the defaults are those published with the version.

    version: v110 or v120. transformer_type: one of its checkpoints, such as 65x512x512 or 93x480p, which
        also sets the size of the video; None for the smallest.
    transformer, vae, text_encoder: hub ids or local folders, of the part itself or of all parts, the
        transformer in a folder named by its type; None for the published ones.
    tiling: of the decoder: none, or a preset such as v110, v120, v120_save_memory
        or videosys; auto is that of the version's published script.

    The other fields can be overridden by each request:
    prompt_template: words around each prompt, with {prompt} as placeholder; None for the published ones.
    """

    version: Version = loading("v120")
    transformer_type: str | None = loading(None)
    tiling: str = loading("auto")

    prompt_template: str | None = None
    cache: CacheConfig = cache_field(PRESETS)

    examples = "open_sora_plan"
    prediction = "epsilon"
    size_multiple = 16  # a patch of two latents, of eight pixels each

    def __post_init__(self) -> None:
        self.check_fields()
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
        """The published settings of the version."""
        return RELEASES[self.version]

    @property
    def is_v110(self) -> bool:
        """Whether it is v1.1.0: LatteT2V, PNDM and prompts cut to the longest."""
        return self.version == "v110"

    @property
    def is_v110_image(self) -> bool:
        """Whether v1.1.0 generates one frame, for which temporal blocks are skipped, as published."""
        return self.is_v110 and self.output_frames == 1

    @property
    def checkpoint(self) -> str:
        """The name of the transformer's checkpoint."""
        return self.transformer_type or next(iter(self.release.types))

    @property
    def model_name(self) -> str:
        return f"open_sora_plan_{self.version}"

    @property
    def scheduler_name(self) -> str:
        return "pndm" if self.is_v110 else "euler_ancestral"

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
    def steps_range(self) -> tuple[int, int]:  # type: ignore[override]
        return self.release.least_steps if self.uses_published_scheduler else 1, 1000

    @property
    def template(self) -> str:
        """Words around each prompt."""
        return self.release.template if self.prompt_template is None else self.prompt_template

    @property
    def negative_text(self) -> str:
        return self.release.negative if self.negative_prompt is None else self.negative_prompt

    @property
    def keeps_chinese(self) -> bool:  # type: ignore[override]
        return self.release.keeps_chinese

    def prompt_texts(self, prompt: str) -> list[str]:
        return [self.template.replace(PLACEHOLDER, prompt)]

    def reads_padding(self, text: str) -> bool:
        return self.is_v110 and super().reads_padding(text)  # v1.2.0 gets the masks

    @property
    def teacache_coefficients(self) -> tuple[float, ...] | None:
        return self.release.coefficients

    def tiles(self) -> Tiling | None:
        """The tiling of the decoder."""
        if self.tiling == "none":
            return None
        return tiling_preset(self.version if self.tiling == "auto" else self.tiling)
