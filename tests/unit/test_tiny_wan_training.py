"""The training of the tiny Wan: what it starts from."""

from __future__ import annotations

from diffusers import WanTransformer3DModel

from eval.training.train_wan import build, export, is_wan
from videosys import resolve

WAN, OTHER = "bundled:wan/transformer", "bundled:open_sora_plan/v120"


def test_a_trained_wan_is_continued_with_exactly_its_weights(tmp_path):
    assert is_wan(resolve(WAN))
    assert not is_wan(resolve(OTHER))
    model = build(resolve(WAN) / "config.json", WAN, batches=None)
    export(tmp_path, model, 0.0)
    first, again = (
        WanTransformer3DModel.from_pretrained(folder).state_dict()
        for folder in (resolve(WAN), tmp_path / "transformer")
    )
    assert first.keys() == again.keys()
    assert all(again[name].equal(value) for name, value in first.items())
