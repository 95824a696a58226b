"""The bytes that the benchmark counts are those of the formula."""

from __future__ import annotations

from dataclasses import replace

import pytest

from eval.performance import volume
from videosys import LatteT2VConfig, OpenSoraT2VConfig, Parallel, ParallelConfig, STDiT3Config

SMALL = {
    "opensora": replace(
        volume.SETTINGS["Open-Sora 480p 9:16, 2s"],
        latent_size=(8, 8, 8),
        config=STDiT3Config(hidden_size=48, depth=2, num_heads=4, caption_channels=16),
    ),
    "latte": replace(
        volume.SETTINGS["Latte 16x512x512"],
        latent_size=(8, 8, 8),
        config=LatteT2VConfig(
            num_layers=2,
            num_attention_heads=4,
            attention_head_dim=12,
            caption_channels=16,
            cross_attention_dim=48,
        ),
    ),
    "plan": replace(
        volume.SETTINGS["Plan v1.2.0 29x480p"],
        latent_size=(8, 8, 8),
        config=OpenSoraT2VConfig(
            num_layers=2,
            num_attention_heads=4,
            attention_head_dim=12,
            caption_channels=16,
            cross_attention_dim=48,
        ),
    ),
}


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize(("cfg", "sp"), [(2, 1), (1, 4), (2, 4)])
def test_counted_bytes_are_those_of_the_formula(name, cfg, sp):
    config = ParallelConfig(cfg * sp, dp=1, cfg=cfg, sp=sp)
    with volume.ranks(cfg * sp):
        found = volume.count(SMALL[name], Parallel.from_config(config, "cpu"))
    assert found == volume.formula(SMALL[name], cfg, sp)


def test_the_table_has_a_row_per_mesh(capsys):
    assert volume.main(["--gpus", "2", "--settings", "Latte 16x512x512"]) == 0
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| Latte")]
    assert [row[1:3] for row in rows] == [["2", "2 x 1"], ["2", "1 x 2"]]
    assert rows[0][3] == rows[0][4].removesuffix(" |")  # tokens are not exchanged
