"""The work of videos that were made: equal to what a run of the transformer does, prompt by prompt."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tests.evaluation import costs, counting, results, sections
from videosys import FAMILIES, NoCacheConfig, OpenSoraConfig, TransformerWork, VideoSysEngine, config_to_dict
from videosys.tiny import config as tiny_config

PROMPT = "a small red circle moves rightward on a blue background"
SMALL = {"num_inference_steps": 4, "num_frames": 5}
RUNS = {
    "opensora": {"num_inference_steps": 4, "num_frames": 17},
    "latte": SMALL,
    "open_sora_plan_v110": SMALL,
    "open_sora_plan_v120": {**SMALL, "negative_prompt": "blurry"},
}


def as_read(value):
    """What a report reads of what a run wrote."""
    return json.loads(json.dumps(value))


@pytest.mark.parametrize(("name", "guidance_scale"), [*((name, 3.0) for name in RUNS), ("latte", 1.0)])
def test_the_work_of_a_video_is_that_of_its_run(name, guidance_scale):
    config = replace(tiny_config(name), **RUNS[name], guidance_scale=guidance_scale, cache=NoCacheConfig())
    with VideoSysEngine(config, quiet=True) as engine:
        pipeline = engine.pipeline
        described = as_read(counting.transformer(pipeline, config))
        tokens = counting.text_tokens(pipeline, PROMPT, config)
        total = counted(pipeline, config)
    assert 5 < tokens < 40
    assert described.pop("family") == pipeline.family.name
    steps = 13 if name.endswith("v110") else 4
    record = {"text_tokens": tokens, "computed": steps, "steps": steps}
    manifest = as_read(config_to_dict(config))
    for more in ({"family": pipeline.family.name}, {}):  # older versions did not write it
        work = costs.of_run({**described, **more}, manifest)
        assert work.total(record) == total
        assert work.total({**record, "text_tokens": None}) > total


def counted(pipeline, config) -> int:
    """FLOPs of the transformer in a generation with its weights."""
    from videosys.generation.request import make_jobs

    texts = pipeline.encode_texts([PROMPT], config, quiet=True)
    given = pipeline.denoising(make_jobs([PROMPT], 0, 1), texts, config)
    with FlopCounterMode(display=False, custom_mapping=counting.fused()) as counter, torch.no_grad():
        pipeline.denoise(given, config.cache, quiet=True)
    return counter.get_total_flops()


def test_temporal_attention_that_is_left_out_costs_nothing():
    steps = {}
    for temporal in (True, False):
        config = tiny_config("latte", enable_temporal_attentions=temporal)
        with VideoSysEngine(config, quiet=True) as engine:
            described = counting.transformer(engine.pipeline, config)
        steps[temporal] = costs.of_run(described, as_read(config_to_dict(config))).work().step
    assert steps[False] < 0.7 * steps[True]


def test_a_transformer_of_another_kind_has_no_costs():
    assert costs.of_run({"kind": "NewModelConfig", "config": {}}, {}) is None
    assert costs.of_run({"family": "new_model", "kind": "STDiT3Config", "config": {}}, {}) is None


def test_the_transformer_of_a_run_stands_for_a_checkpoint_that_is_elsewhere():
    config = as_read(config_to_dict(OpenSoraConfig(transformer="nobody/nothing", num_frames=17)))
    shape = {"hidden_size": 64, "depth": 3, "num_heads": 4, "caption_channels": 32, "renamed_since": 1}
    described = {"kind": "STDiT3Config", "config": shape, "latents": [2, 4, 5]}
    work = costs.of_run(described, {**config, "renamed_since": True}).work()
    assert (work.width, work.layers, work.tokens) == (64, 3, 2 * 2 * 2 * 3)


def test_a_manifest_of_a_run_that_said_nothing_is_read_by_its_checkpoint():
    config = {"transformer": "bundled:open_sora_plan/v110", "version": "v110"}
    made = costs.of_config(config, 33, 64, 64)
    assert made.longest == 300
    assert made.one.tokens == 2 * 9 * 16
    assert costs.of_config({"transformer": "nobody/nothing"}, 33, 64, 64) is None


def result(name, made, saved=0, **record):
    whole = {
        "prompt": "x",
        "steps": 10,
        "computed": 5,
        "seconds": 1.0,
        "reused_branches": 0,
        "cache": {},
        **record,
    }
    return results.Result(name, {"x.mp4": whole}, made, False, saved=saved)


def flat(prepare: int, step: int) -> TransformerWork:
    return TransformerWork(prepare, step, 1, 8, 8, 1)


MADE = costs.Costs(flat(10, 100), flat(12, 103), longest=30)


def test_flops_are_the_mean_over_prompts_of_their_own():
    records = {
        "a": {"text_tokens": 1, "computed": 5, "steps": 10},
        "b": {"text_tokens": 3, "computed": 5, "steps": 10},
    }
    made = results.Result("x", records, MADE, False)
    assert made.flops == ((10 + 5 * 100 + 5) + (14 + 5 * 106 + 5)) / 2
    assert replace(made, saved=100).flops == made.flops - 100
    assert replace(made, saved=None).flops is replace(made, costs=None).flops is None


def test_tokens_are_known_by_the_prompt():
    loaded = {
        "base": {"a": {"prompt": "one"}, "b": {"prompt": "two"}},
        "late": {"a": {"prompt": "one", "text_tokens": 7}},
    }
    assert [row["text_tokens"] for row in results.with_tokens(loaded["base"], loaded).values()] == [7, None]


def test_what_a_method_saves_needs_a_count_that_finds_all_the_work():
    records = {"x.mp4": {"reused_branches": 3, "steps": 10}}
    whole = 10 + 10 * 100
    count = {"base": whole, "flops": 800, "text_tokens": 1}
    assert results.saved("pab", records, {"pab": count}, MADE) == whole - 800
    assert results.saved("pab", records, {"pab": {**count, "text_tokens": 30}}, MADE) is None
    assert results.saved("pab", records, {}, MADE) is None
    assert results.saved("pab", {"x.mp4": {"reused_branches": 0}}, {}, MADE) == 0


def test_counts_of_an_older_form_are_made_anew(tmp_path):
    (tmp_path / counting.NAME).write_text('{"base": 10, "pab": {"base": 10, "flops": 8, "text_tokens": 1}}')
    assert list(counting.read(tmp_path)) == ["pab"]


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (result("new", MADE, text_tokens=4), []),
        (result("old", MADE), ["Their FLOPs are upper bounds, counted for the longest prompt"]),
        (
            result("pab", MADE, saved=None, text_tokens=4),
            ["FLOPs of pab are missing: flops.json has no count"],
        ),
        (result("hub", None), ["FLOPs are missing: runs.jsonl does not describe"]),
    ],
)
def test_what_is_not_known_is_said_under_the_table(made, said, tmp_path):
    base = result("base", MADE, text_tokens=4)
    for item in (base, made):
        (tmp_path / item.name).mkdir()
        (tmp_path / item.name / "x.mp4").write_text(item.name)
    model = results.Model("m", tmp_path, (base, made), ("a device",))
    blocks = list(sections.doubts(model))
    assert len(blocks) == len(said)
    assert all(words in block.words for words, block in zip(said, blocks))


def test_a_manifest_without_a_name_tells_its_family():
    for family in FAMILIES.values():
        first, *_ = costs.families(as_read(config_to_dict(family.config())))
        assert first is family
