"""The bytes that the benchmark counts are those of the formula."""

from __future__ import annotations

from dataclasses import replace

import pytest

from eval.performance import volume
from eval.performance.models import with_transformer
from eval.performance.sizes import SIZES
from videosys import Blueprint, Parallel, ParallelConfig

SHAPE = {"num_layers": 2, "num_attention_heads": 4, "attention_head_dim": 12, "cross_attention_dim": 48}
SMALL = {
    "opensora-51x480x848": {"hidden_size": 48, "depth": 2, "num_heads": 4},
    "latte-16x512x512": SHAPE,
    "v120-29x480x640": SHAPE,
}


def small(name: str) -> Blueprint:
    plan = SIZES[name].plan
    config = replace(plan.parts.transformer.config, caption_channels=16, **SMALL[name])
    return replace(with_transformer(plan, config), latent_size=(8, 8, 8))


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize(("cfg", "sp"), [(2, 1), (1, 4), (2, 4)])
def test_counted_bytes_are_those_of_the_formula(name, cfg, sp):
    config = ParallelConfig(cfg * sp, dp=1, cfg=cfg, sp=sp)
    with volume.ranks(cfg * sp):
        found = volume.count(small(name), Parallel.from_config(config, "cpu"))
    assert found == volume.formula(small(name), cfg, sp)


def test_the_table_has_a_row_per_mesh(capsys):
    assert volume.main(["--gpus", "2", "--sizes", "latte-16x512x512"]) == 0
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| latte")]
    assert [row[1:3] for row in rows] == [["2", "2 x 1"], ["2", "1 x 2"]]
    assert rows[0][3] == rows[0][4].removesuffix(" |")  # tokens are not exchanged
