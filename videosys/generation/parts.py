"""The parts of a checkpoint: folders, classes and configs, without reading weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from torch import nn

from videosys.generation.config import PipelineConfig
from videosys.parallel import Parallel
from videosys.utils.checkpoint import read_config, resolve
from videosys.utils.hub import BUNDLED, PATTERNS, NotFetched
from videosys.utils.reading import expanded

C = TypeVar("C")
CONFIG = "config.json"  # file in a part's folder


@dataclass(frozen=True)
class Part:
    """A transformer or an autoencoder.

    module_cls: its class, called with config, parallel and options. config: from its config.json. folder: of
    its files, or None if they are not on this computer; then `config` is the published one.
    """

    module_cls: type[nn.Module]
    config: Any
    folder: Path | None
    options: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))

    def build(self, parallel: Parallel, config: Any = None) -> nn.Module:
        """Build the module with random weights; `config` replaces the part's config."""
        return self.module_cls(config or self.config, parallel=parallel, **self.options)


@dataclass(frozen=True)
class TextEncoderPart:
    """A T5 or mT5 encoder with its tokenizer.

    folder: contains the folders `text_encoder` and `tokenizer`, or the files of both; None as in `Part`.
    max_length: maximum tokens of a prompt. is_mt5: kind of the published encoder, for an estimate without a
    folder.
    """

    folder: Path | None
    max_length: int
    is_mt5: bool = False


@dataclass(frozen=True)
class Parts:
    """The three parts of a checkpoint."""

    transformer: Part
    vae: Part
    text_encoder: TextEncoderPart

    def latent_size(self, config: PipelineConfig) -> tuple[int, int, int]:
        """Latent frames, rows and columns of one clip."""
        return self.vae.config.latent_size(config.clip_frames, *config.size)

    def check(self) -> None:
        """ValueError if transformer and autoencoder do not belong to the same model."""
        denoised, decoded = self.transformer.config.in_channels, self.vae.config.latent_channels
        if denoised != decoded:
            raise ValueError(
                f"{self.transformer.folder} has {denoised} latent channels, "
                f"but {self.vae.folder} decodes {decoded}"
            )


class PartFinder:
    """Finds the folders of a checkpoint's parts.

    may_be_missing: download nothing; parts that are not on this computer have no folder.
    folders: of the local parts. missing: the other parts, with their sources.
    """

    def __init__(self, config: PipelineConfig, may_be_missing: bool = False):
        self.revision, self.config_cls = config.revision, type(config)
        self.offline = config.offline or may_be_missing
        self.may_be_missing = may_be_missing
        self.folders: dict[str, Path] = {}
        self.missing: list[str] = []

    def folder(
        self, part: str, source: str | None, subfolder: str = "", patterns: Sequence[str] = PATTERNS
    ) -> Path | None:
        """The folder of a part, which is `subfolder` in a repository with all parts.

        A local folder may also contain the part directly. ValueError if it cannot be found.
        """
        try:
            if source is None:
                raise ValueError(f"{part} is null; it must be a folder or a hub id (owner/name)")
            self.folders[part] = part_folder(self._folder(source, subfolder, patterns), part)
        except ValueError as error:
            if not self.may_be_missing:
                raise (self._advised(error) if isinstance(error, NotFetched) else error) from error.__cause__
            self.missing.append(f"{part} {'(not set)' if source is None else source}")
        return self.folders.get(part)

    def _advised(self, error: NotFetched) -> ValueError:
        """The error, with a hint at the bundled checkpoint if there is one."""
        tiny = next((name for name in self.config_cls.named_configs() if name.startswith("tiny")), None)
        call = f"load_config({self.config_cls.__name__}, {tiny!r})"
        advice = f"; {call} uses the small checkpoint that is bundled with the package" if tiny else ""
        return ValueError(f"{error}{advice}")

    def part(
        self, name: str, source: str | None, module_cls: type[nn.Module], published: Any, subfolder: str = ""
    ) -> Part:
        """The part at `source`. published: its config if it is not on this computer."""
        folder = self.folder(name, source, subfolder)
        return Part(module_cls, config_of(type(published), folder, published), folder)

    def text_encoder(self, source: str | None, max_length: int, is_mt5: bool = False) -> TextEncoderPart:
        """The text encoder at `source`; other parts of a model repository are not downloaded."""
        return TextEncoderPart(self._text_folder(source), max_length, is_mt5)

    def _text_folder(self, source: str | None) -> Path | None:
        from videosys.text_encoders.t5 import PARTS
        from videosys.text_encoders.t5 import PATTERNS as WHOLE

        folder = self.folder("text_encoder", source, patterns=PARTS)
        if folder is None or self.may_be_missing or (folder / "text_encoder").is_dir():
            return folder
        return self.folder("text_encoder", source, patterns=WHOLE)

    def _folder(self, source: str, subfolder: str, patterns: Sequence[str]) -> Path:
        options: dict[str, Any] = {"revision": self.revision, "offline": self.offline, "patterns": patterns}
        is_local = source.startswith(BUNDLED) or expanded(source).is_dir()
        if not is_local and not self.may_be_missing:
            return resolve(source, subfolder=subfolder, **options)
        folder = resolve(source, **options)
        return folder / subfolder if (folder / subfolder).is_dir() else folder


def part_folder(folder: Path, part: str) -> Path:
    """The folder of a part: `folder` itself, or its subfolder with the part's name."""
    is_inside = not (folder / CONFIG).is_file() and (folder / part / CONFIG).is_file()
    return folder / part if is_inside and part != "text_encoder" else folder


def config_of(config_cls: type[C], folder: Path | None, published: C) -> C:
    """The config in a part's folder, or the published one without a folder."""
    return published if folder is None else read_config(config_cls, folder)
