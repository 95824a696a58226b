"""The work of videos that were made, from what their run wrote down about its transformer and its prompts."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import videosys
from reporting import work

V110_TOKENS = 300  # of the longest prompt of Open-Sora-Plan v1.1.0, whose transformer is otherwise Latte's


@dataclass(frozen=True)
class Costs:
    """The work of one generation by the length of its prompt: it grows by the same with every token, so two
    counts tell all. longest: tokens of the longest prompt, for videos of which the number is not known.
    """

    one: work.Work
    two: work.Work
    longest: int

    @classmethod
    def of(cls, count: Callable[[int], work.Work], longest: int) -> Costs:
        return cls(count(1), count(2), longest)

    def work(self, tokens: int | None = None) -> work.Work:
        """The work for a prompt of so many tokens; None for the longest."""
        more = (tokens or self.longest) - 1

        def grown(name: str) -> int:
            one, two = getattr(self.one, name), getattr(self.two, name)
            return one + (two - one) * more

        return dataclasses.replace(
            self.one, prepare=grown("prepare"), step=grown("step"), reused=grown("reused")
        )

    def total(self, record: Mapping[str, Any]) -> float:
        """FLOPs of the transformer for a video of a manifest, whose computed steps count whole."""
        return self.work(record.get("text_tokens")).total(record["computed"], record["steps"])


def of_run(described: Mapping[str, Any], config: Mapping[str, Any]) -> Costs | None:
    """From what runs.jsonl says of the transformer, and the config in a manifest. None for one of a kind that
    `work.ARCHITECTURES` does not have.
    """
    known = {item.config.__name__: item for item in work.ARCHITECTURES.values()}
    architecture = known.get(described["kind"])
    if architecture is None:
        return None
    options = {} if described["temporal"] else {"enable_temporal_attentions": False}
    made, latents = built(architecture, described["config"]), tuple(described["latents"])
    return Costs.of(
        lambda text: work.count(architecture, made, latents, text, described["batch"], **options),
        longest(architecture, made, config),
    )


def of_config(config: Mapping[str, Any], frames: int, height: int, width: int) -> Costs | None:
    """From the config in a manifest whose run did not say it: by the checkpoint's own file. None where that
    is not on this computer.
    """
    folder = checkpoint(str(config["transformer"]), config)
    if folder is None:
        return None
    content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    architecture = work.ARCHITECTURES[kind(config)]
    made, latents = built(architecture, content), latent_size(config, frames, height, width)
    return Costs.of(
        lambda text: work.count(architecture, made, latents, text), longest(architecture, made, config)
    )


def longest(architecture: work.Architecture, made: Any, config: Mapping[str, Any]) -> int:
    """The most tokens that a prompt may have."""
    if is_v110(config):
        return V110_TOKENS
    return getattr(made, "model_max_length", architecture.text)


def built(architecture: work.Architecture, content: Mapping[str, Any]) -> Any:
    """The transformer's config from fields that JSON holds; others among them are left."""
    names = {field.name for field in dataclasses.fields(architecture.config)}
    return architecture.config(**{name: hashable(value) for name, value in content.items() if name in names})


def checkpoint(source: str, config: Mapping[str, Any]) -> Path | None:
    """The folder of a transformer on this computer."""
    bundled = source.removeprefix("bundled:")
    root = Path(videosys.__file__).parent / "tiny" / bundled if bundled != source else Path(source)
    places = [root, root / "transformer", root / str(config.get("transformer_type"))]
    return next((place for place in places if (place / "config.json").is_file()), None)


def hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def kind(config: Mapping[str, Any]) -> str:
    """Which transformer a config runs."""
    if "version" in config:
        return "LatteT2V" if is_v110(config) else "OpenSoraT2V"
    return "STDiT3" if "vae_micro_batch_size" in config else "LatteT2V"


def is_v110(config: Mapping[str, Any]) -> bool:
    return config.get("version") == "v110"


def latent_size(config: Mapping[str, Any], frames: int, height: int, width: int) -> tuple[int, int, int]:
    """Latents of a video: eight pixels to one; in time by the model's autoencoder."""
    rows, columns = height // 8, width // 8
    if "version" in config:
        return (frames - 1) // 4 + 1, rows, columns
    if kind(config) == "LatteT2V":
        return frames, rows, columns
    chunks, rest = divmod(frames, 17)  # of which five latents are made
    return 5 * chunks + -(-rest // 4), rows, columns
