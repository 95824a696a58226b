"""Loads the parts of a checkpoint on first use."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from torch import nn

from videosys.generation.compile import (
    check_compile_offload,
    check_compiler,
    compile_blocks,
    compile_decoders,
    compiles_blocks,
    compiles_decoder,
)
from videosys.generation.config import PipelineConfig, resolve_dtype
from videosys.generation.graphs import uses_graphs
from videosys.generation.lora import Deltas, adapted, read_loras
from videosys.generation.offload import Component, check_offload
from videosys.generation.parts import Part, Parts, TextEncoderPart
from videosys.layers.autoencoder import use_channels_last
from videosys.layers.backends import check_attention, use_attention
from videosys.layers.kernels import use_kernels
from videosys.layers.storage import check_storage, quantize_blocks, use_opaque_dequantize
from videosys.parallel import Parallel
from videosys.utils.checkpoint import check_model, empty_model, load_model
from videosys.utils.devices import CPU, resolve_device

if TYPE_CHECKING:
    from videosys.text_encoders.t5 import T5Encoder

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class Components:
    """The parts as modules that are loaded on first use.

    uses_graphs: whether the transformer runs with CUDA graphs.
    """

    text_encoder: Component[T5Encoder]
    transformer: Component[Any]
    vae: Component[Any]
    uses_graphs: bool = False

    def close(self) -> None:
        """Drop all weights."""
        for component in (self.text_encoder, self.transformer, self.vae):
            component.close()


class Loader:
    """Creates the components of a checkpoint. Weights are read on first use, but problems with files, device
    or packages are a ValueError at construction.
    """

    def __init__(self, config: PipelineConfig, quiet: bool = False, parallel: Parallel = Parallel()):
        self.config, self.quiet, self.parallel = config, quiet, parallel
        self.device = resolve_device(config.device)
        self.dtype = resolve_dtype(config.dtype, self.device)
        check_offload(config.offload, self.device)
        check_storage(config.storage_dtype, self.device)
        self.has_groups = config.offload == "group"
        # Modules that are offloaded in groups are kept there.
        self.home = CPU if self.has_groups else self.device

    def components(self, parts: Parts) -> Components:
        """The components of all parts."""
        width = parts.transformer.config.caption_channels
        return Components(
            self.text_encoder(parts.text_encoder, width),
            self.transformer(parts.transformer),
            self.vae(parts.vae),
            uses_graphs(self.config.cuda_graphs, self.device, self.parallel),
        )

    def text_encoder(self, part: TextEncoderPart, width: int) -> Component[T5Encoder]:
        """A T5 encoder. width: width of embeddings that the transformer needs; ValueError for another one."""
        from videosys.text_encoders.t5 import T5Encoder, check_width

        folder = existing(part.folder)
        check_width(folder, width)

        def load() -> T5Encoder:
            return T5Encoder.from_pretrained(
                folder,
                max_length=part.max_length,
                dtype=self.dtype,
                storage_dtype=self.config.storage_dtype,
                device=self.home,
            )

        return Component(load, self.device, self.config.offload, root=lambda encoder: encoder.blocks_owner)

    def vae(self, part: Part) -> Component[Any]:
        """An autoencoder. It is not offloaded in groups, because it has no blocks."""
        is_compiled = compiles_decoder(self.config.compile)
        if is_compiled:
            self._check_compile()
        load = self._checked(part)

        def load_vae() -> nn.Module:
            vae = load(device=self.device)
            if self.config.vae_channels_last:
                use_channels_last(vae)
            return compile_decoders(vae) if is_compiled else vae

        offload = "stage" if self.has_groups else self.config.offload
        return Component(load_vae, self.device, offload, part.folder)

    def transformer(self, part: Part) -> Component[Any]:
        """A transformer with its kernels, and compiled blocks if configured."""
        is_compiled, backend = compiles_blocks(self.config.compile), self.config.attention
        check_attention(backend, self.device, self.dtype)
        if is_compiled:
            self._check_compile()
        load = self._checked(part)
        keep = quantize_blocks if self.config.storage_dtype != "auto" else None
        adapt = adapted(self.loras(part))

        def load_transformer() -> nn.Module:
            model = use_attention(load(device=self.home, keep=keep, adapt=adapt), backend)
            model = use_kernels(model, self.config.kernels, self.device)
            return compile_blocks(use_opaque_dequantize(model, self.device)) if is_compiled else model

        return Component(load_transformer, self.device, self.config.offload, part.folder)

    def loras(self, part: Part) -> Deltas:
        """The changes of a part's weights by the config's LoRAs. ValueError for files that do not fit."""
        if not self.config.lora:
            return {}
        options = {"parallel": self.parallel, **part.options}
        model = empty_model(part.module_cls, part.config, existing(part.folder), **options)
        shapes = {key: tuple(item.shape) for key, item in model.state_dict().items()}
        current = getattr(part.module_cls, "current_key", str)
        return read_loras(self.config.lora, shapes, current, self.config.offline)

    def _check_compile(self) -> None:
        """ValueError if the configured modules cannot be compiled, or would be recompiled at each use."""
        check_compiler(self.device, self.config.compile)
        check_compile_offload(self.config.offload, self.device, self.config.compile)

    def _checked(self, part: Part) -> Callable[..., nn.Module]:
        """The loader of a part. Names and shapes of its weights are compared with the files immediately."""
        folder, options = existing(part.folder), {"parallel": self.parallel, **part.options}
        check_model(part.module_cls, part.config, folder, **options)
        return functools.partial(
            load_model, part.module_cls, part.config, folder, dtype=self.dtype, quiet=self.quiet, **options
        )


def existing(folder: Path | None) -> Path:
    """The folder, required except for an estimate."""
    assert folder is not None, "only an estimate works without folders"
    return folder
