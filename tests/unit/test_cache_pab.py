"""PAB in closed form: its rules, and Open-Sora-Plan v1.2.0, of which no published run is at hand."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from tests.tiny_checkpoint import PLAN
from videosys import LatteConfig, OpenSoraConfig, OpenSoraPlanConfig, load_config
from videosys.cache import Broadcast, PABConfig, start
from videosys.cache.pab import mlp_steps, nearest_step, reuse_steps, step_positions
from videosys.layers.modulation import modulate, modulation
from videosys.models.open_sora_plan.presets import PRESETS
from videosys.models.open_sora_plan.transformer import OpenSoraT2V
from videosys.parallel import Parallel
from videosys.schedulers import euler_ancestral, pndm

SIZE = (2, 4, 6)


def by_hand(model, x, t6, condition, kept, computes):
    """The blocks of v1.2.0 with kept branches, written again: a kept self-attention takes the gate of the
    step it is used in, a kept cross-attention none.
    """
    for i, block in enumerate(model.transformer_blocks):
        shift1, scale1, gate1, shift2, scale2, gate2 = modulation(block.scale_shift_table, t6)
        if computes["attention"]:
            kept[i, "attention"] = block.attn1(modulate(x, shift1, scale1), condition.layout)
        x = x + gate1 * kept[i, "attention"]
        if computes["cross"]:
            kept[i, "cross"] = block.attn2(x, condition.text[i])
        x = x + kept[i, "cross"]
        x = x + gate2 * block.ff(modulate(x, shift2, scale2))
    return x


@torch.no_grad()
def test_open_sora_plan_v120_in_closed_form():
    torch.manual_seed(0)
    model = OpenSoraT2V(PLAN).eval()
    condition = model.prepare(torch.randn(1, 5, PLAN.caption_channels), latent_size=SIZE)
    sampler, kept, seen = euler_ancestral(40), {}, set()
    cache = start(PRESETS["pab"], sampler.times(), Parallel().gather_rows)
    for step, timestep in enumerate(sampler.timesteps):
        latents = torch.randn(1, 4, *SIZE)
        cache.begin_step(step, float(timestep))
        result = model(latents, timestep[None], condition, cache)
        inside = 100 < int(timestep) < 850
        computes = {kind: not inside or step % every == 0 for kind, every in (("attention", 2), ("cross", 6))}
        seen.add(tuple(computes.values()))
        x, t, t6 = model.embed(latents, timestep[None], condition)
        expected = model.head(by_hand(model, x, t6, condition, kept, computes), t, condition)
        torch.testing.assert_close(result, expected, atol=1e-5, rtol=0)
        assert cache.steps[step].reused == PLAN.num_layers * list(computes.values()).count(False)
    assert seen == {(True, True), (True, False), (False, False)}
    assert not cache.results


def steps_of(config, times, stack="spatial", block=0, kind="attention"):
    return sorted(reuse_steps(config, step_positions(times, config.unit), stack, block, kind))


def test_the_window_excludes_its_ends_and_rounds_timesteps_down():
    config = PABConfig.pyramid((9, 9, 9), (200.0, 600.0))
    times = [1000.0, 600.0, 599.9, 400.0, 200.9, 201.0, 0.0]
    assert steps_of(config, times) == [2, 3, 5]


def test_flow_times_are_timesteps_in_thousandths():
    config = PABConfig.pyramid((2, 4, 6), (200.0, 600.0))
    times = [1.0, 0.8, 0.55, 0.5, 0.3, 0.25, 0.1]
    assert steps_of(config, times) == steps_of(config, [1000 * time for time in times])
    assert step_positions([torch.tensor(0.863).item()], "timestep") == [863.0]


def test_a_window_in_fractions_holds_for_any_number_of_steps():
    config = PABConfig(spatial=Broadcast(2, (0.25, 0.75)))
    for count in (5, 30, 50, 159):
        found = steps_of(config, [0.0] * count)
        assert found == [s for s in range(count) if s % 2 and 0.25 < s / (count - 1) < 0.75]
    assert steps_of(config, [0.0]) == []


@pytest.mark.parametrize("window", [(-1.0, 2000.0), (0.0, 1000.0)])
def test_the_first_and_the_last_step_compute_whatever_the_window(window):
    config = PABConfig.pyramid((99, 99, 99), window, ((0.0, 3, (0,)), (1000.0, 3, (0,))))
    times = [999.0, 700.0, 500.0, 300.0, 1.0]
    assert steps_of(config, times) == [1, 2, 3]
    assert steps_of(config, times, kind="mlp") == [1, 2, 3]


def test_a_stack_without_a_rule_computes():
    config = PABConfig(spatial=None, cross=None)
    for stack, kind in (
        ("spatial", "attention"),
        ("temporal", "cross"),
        ("spatial", "mlp"),
        ("other", "mlp"),
    ):
        assert steps_of(config, [0.0] * 30, stack, 0, kind) == []
    assert steps_of(config, [0.0] * 30, "joint")


def test_mlp_keys_act_at_the_nearest_step_and_only_on_their_blocks():
    keys = ((700.0, 2, (0, 2)), (300.0, 1, (1,)))
    at = [950.0, 820.0, 710.0, 640.0, 500.0, 310.0, 100.0, 0.0]
    assert (nearest_step(700.0, at), nearest_step(765.0, at)) == (2, 1)
    assert [sorted(mlp_steps(keys, at, block)) for block in (0, 1, 2, 3)] == [[3, 4], [6], [3, 4], []]


def test_with_few_steps_a_key_within_the_steps_of_another_is_passed_over():
    keys = tuple((738.0 - 24 * i, 2, (0,)) for i in range(14))
    many, few = pndm(150).times(), pndm(20).times()
    for times in (many, few):
        found = mlp_steps(keys, times, 0)
        runs = [step for step in sorted(found) if step - 1 not in found]
        assert found == {step for run in runs for step in (run, run + 1)}
        assert len(runs) >= 2
    assert len(mlp_steps(keys, many, 0)) == 28  # as published: one of four computes, stores and is used twice


def test_a_result_is_kept_only_while_a_step_will_use_it():
    cache = start(PABConfig(spatial=Broadcast(3, (0.3, 0.7))), [0.0] * 11, Parallel().gather_rows)
    branch, held = cache.layer("spatial", 0), []
    for step in range(11):
        cache.begin_step(step, 0.0)
        cache.should_compute(None)
        branch("attention", lambda step=step: torch.tensor([float(step)]))
        held.append([float(value) for value in cache.held()])
    # The window is steps 4, 5 and 6; step 6 computes.
    assert held == [[], [], [], [3.0], [3.0], [], [], [], [], [], []]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"spatial": {"range": 0}}, "range is 0"),
        ({"cross": {"range": 2, "window": [0.5, 0.5]}}, r"window is \[0.5, 0.5\]"),
        ({"mlp_spatial": [[0.5, 0, [1]]]}, r"cache.mlp_spatial holds \[0.5, 0, \[1\]\]"),
        ({"mlp_joint": [[0.5, 1, []]]}, "cache.mlp_joint"),
        ({"mlp_temporal": [[0.5, 1, [-1]]]}, "cache.mlp_temporal"),
        ({"mlp_temporal": [[0.5, 1]]}, "a list of 3"),
        ({"unit": "step"}, "'timestep', 'fraction'"),
        ({"unit": ["step"]}, "'timestep', 'fraction'"),
    ],
)
def test_impossible_settings_are_refused(changes, message):
    (key, value), text = next(iter(changes.items())), ""
    text = f"cache.{key}={value}".replace("'", "")
    with pytest.raises(ValueError, match=message):
        load_config(LatteConfig, overrides=["cache=pab", text])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"spatial": Broadcast(2, (450.0, 930.0))},
            r"cache.spatial.window has \[450.0, 930.0\], and cache.unit",
        ),
        ({"cross": Broadcast(2, (-0.1, 0.5))}, "cache.cross.window"),
        ({"joint": Broadcast(2, (0.1, 1.5))}, "cache.joint.window"),
        (
            {"mlp_temporal": ((0.5, 2, (0,)), (864.0, 2, (0,)))},
            "cache.mlp_temporal has 864.0, and cache.unit is",
        ),
        ({"mlp_spatial": ((-0.1, 2, (0,)),)}, "cache.mlp_spatial has -0.1"),
        ({"unit": "timestep"}, r"cache.spatial.window has \[0.15, 0.85\], and cache.unit is timestep"),
    ],
)
def test_what_would_never_be_reached_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        PABConfig(**settings)


CLASSES = [LatteConfig, OpenSoraConfig, OpenSoraPlanConfig]


@pytest.mark.parametrize("name", ["pab", "pab_slow", "pab_fast"])
@pytest.mark.parametrize("cls", CLASSES)
def test_another_unit_keeps_the_ranges_of_a_preset_and_none_of_its_places(cls, name):
    preset = load_config(cls, overrides=[f"cache={name}"]).cache
    made = load_config(cls, overrides=[f"cache={name}", "cache.unit=fraction", "cache.cross.range=3"]).cache
    assert (made.spatial.range, made.temporal.range) == (preset.spatial.range, preset.temporal.range)
    assert made.cross == Broadcast(3)
    assert {made.spatial.window, made.temporal.window, made.joint.window} == {(0.15, 0.85)}
    assert made.mlp_spatial == made.mlp_temporal == made.mlp_joint == ()
    for stack, kind in (("spatial", "attention"), ("temporal", "attention"), ("joint", "cross")):
        assert steps_of(made, pndm(30).times(), stack, 0, kind)
    same = load_config(cls, overrides=[f"cache={name}", "cache.unit=timestep"]).cache
    assert same == preset


def test_a_unit_of_timesteps_needs_windows_of_its_own(tmp_path):
    own = tmp_path / "a.py"
    own.write_text(
        "from videosys import LatteConfig\nfrom videosys.cache import PABConfig\n"
        "config = LatteConfig(cache=PABConfig(mlp_spatial=((0.3, 2, (0,)),)))\n"
    )
    with pytest.raises(
        ValueError, match=r"cache.temporal.window has \[0.15, 0.85\], and cache.unit is timestep"
    ):
        load_config(LatteConfig, own, overrides=["cache.unit=timestep", "cache.spatial.window=[100, 800]"])
    windows = [f"cache.{name}.window=[100, 800]" for name in ("spatial", "temporal", "joint", "cross")]
    made = load_config(LatteConfig, own, overrides=["cache.unit=timestep", *windows]).cache
    assert made == PABConfig.pyramid((2, 4, 6), (100.0, 800.0))


@pytest.mark.parametrize("cls", CLASSES)
def test_the_settings_that_the_manual_shows_do_what_they_say(cls, tmp_path):
    page = (Path(__file__).resolve().parents[2] / "docs" / "pab.md").read_text("utf-8")
    (text,) = re.findall(r"^```yaml\n(cache:\n  name: pab\n.*?)^```$", page, re.MULTILINE | re.DOTALL)
    (tmp_path / "a.yaml").write_text(text)
    config, times = load_config(cls, tmp_path / "a.yaml").cache, pndm(30).times()
    window = [step for step in range(len(times)) if 0.15 < step / (len(times) - 1) < 0.85]
    for stack, every in (("spatial", 2), ("temporal", 4)):
        assert steps_of(config, times, stack) == [step for step in window if step % every]
        assert steps_of(config, times, stack, kind="cross") == []
    first = nearest_step(0.3, step_positions(times, "fraction"))
    assert steps_of(config, times, "spatial", 2, "mlp") == [first + 1, first + 2]
    assert steps_of(config, times, "spatial", 3, "mlp") == steps_of(config, times, "temporal", 0, "mlp") == []


@pytest.mark.parametrize("cls", CLASSES)
def test_the_published_settings_have_names(cls):
    slow, fast, plain = (
        load_config(cls, overrides=[f"cache={n}"]).cache for n in ("pab_slow", "pab_fast", "pab")
    )
    assert slow == plain
    assert slow.unit == fast.unit == "timestep"
    assert slow.mlp_spatial == slow.mlp_temporal != ()
    assert slow.joint == slow.spatial
    assert fast.spatial.range > slow.spatial.range
    off = load_config(cls, overrides=["cache=pab", "cache.cross=null", "cache.spatial.range=3"]).cache
    assert (off.cross, off.spatial.range, off.temporal) == (None, 3, slow.temporal)
