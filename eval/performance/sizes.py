"""The published sizes of `eval/sizes.json`: config fields of a family, and published figures."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

from videosys import FAMILIES, Blueprint, blueprint

FILE = Path(__file__).resolve().parents[1] / "sizes.json"


@dataclass(frozen=True)
class PublishedSize:
    """A size of a model.

    computed: evaluations that TeaCache computes, per setting (arXiv 2411.19108, table 1). is_measured:
    whether the benchmark includes it by default.
    """

    family: str
    settings: Mapping[str, Any]
    title: str = ""
    is_measured: bool = False
    computed: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))

    @cached_property
    def plan(self) -> Blueprint:
        """The parts of the published checkpoint, without weights."""
        return blueprint(FAMILIES[self.family].config(**self.settings))


SIZES: Mapping[str, PublishedSize] = MappingProxyType(
    {name: PublishedSize(**row) for name, row in json.loads(FILE.read_text("utf-8")).items()}
)
