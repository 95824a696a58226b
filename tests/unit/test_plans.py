"""A goal becomes a plan: solver, steps and cache, in a readable text, and in YAML that pins it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from videosys import LatteConfig, OpenSoraConfig, load_config, tiny
from videosys.cache import (
    BestConfig,
    Calibration,
    IntervalConfig,
    Linear,
    NoCacheConfig,
    PABConfig,
    ScheduleConfig,
    Setting,
    TeaCacheConfig,
    calibration_text,
    find_plan,
    read_calibration,
    resolve_cache,
)
from videosys.calibration.plan import main, pinned
from videosys.generation.plans import cache_text, plan_text, with_plan
from videosys.models import family_of
from videosys.schedulers.solvers import DPMSolverConfig, EulerConfig, PublishedConfig, UniPCConfig

SOLVER = {"scheduler": {"name": "dpm_solver", "grid": "lu"}, "num_inference_steps": 17}
SCHEDULE = ScheduleConfig(computed=(0, 3, 9, 49), forecast=Linear(), place="output")
SETTINGS = (
    Setting(NoCacheConfig(), 17, 2.9, 33.5, 0.9, 37.1, SOLVER),
    Setting(SCHEDULE, 16, 3.0, 36.5, 0.9, 30.1),
    Setting(NoCacheConfig(), 25, 2.0, None, 1.0, 44.0, {**SOLVER, "num_inference_steps": 25}),
)


@pytest.fixture
def latte(tmp_path):
    """A config of the bundled Latte with a goal, and the calibration file for it."""

    def made(settings=SETTINGS, **goal):
        config = tiny.config("latte")
        scope = family_of(config).build(config, quiet=True).scope(config)
        path = tmp_path / "calibration.json"
        path.write_text(calibration_text(Calibration(scope, settings)))
        return tiny.config("latte", cache=BestConfig(calibration=str(path), **goal))

    return made


def resolved(config):
    return family_of(config).build(config, quiet=True).with_resolved_cache(config)


def test_settings_with_a_sampler_are_read_back(tmp_path, latte):
    config = latte(speedup=1.0)
    assert read_calibration(config.cache.calibration).settings == SETTINGS


@pytest.mark.parametrize(
    ("goal", "steps", "cache"),
    [
        ({"evaluations": 17}, 50, SCHEDULE),
        ({"evaluations": 17, "reference": "converged"}, 17, NoCacheConfig()),
        ({"speedup": 2.0, "reference": "converged"}, 25, NoCacheConfig()),
        ({"min_psnr": 36}, 50, SCHEDULE),
        ({"min_psnr": 36, "reference": "converged"}, 17, NoCacheConfig()),
        ({"min_psnr": 40, "reference": "converged"}, 25, NoCacheConfig()),
    ],
)
def test_a_goal_chooses_sampler_and_cache(latte, goal, steps, cache):
    config = resolved(latte(**goal))
    assert (config.steps, config.cache) == (steps, cache)
    assert config.scheduler == (PublishedConfig() if steps == 50 else DPMSolverConfig(grid="lu"))


def test_the_full_run_is_a_plan_too(latte):
    only_faster = (SETTINGS[0], SETTINGS[1])
    for goal in ({"evaluations": 50}, {"min_psnr": 90}, {"speedup": 1.0}):
        config = resolved(latte(only_faster, **goal))
        assert (config.steps, config.cache, config.scheduler) == (50, NoCacheConfig(), PublishedConfig())
    assert resolved(latte(only_faster, evaluations=49)).cache == SCHEDULE
    assert resolved(latte(only_faster, evaluations=50, reference="converged")).steps == 17


def test_what_cannot_change_the_sampler_takes_a_policy_of_the_sampler(latte):
    """Such as pipelines of diffusers."""
    config = latte(evaluations=25)
    path = config.cache.calibration
    scope = read_calibration(path).scope
    assert find_plan(config.cache, lambda: scope, None) == (SETTINGS[2], path)
    assert find_plan(SCHEDULE, lambda: scope, None) is None
    assert resolve_cache(config.cache, lambda: scope) == SCHEDULE


@pytest.mark.parametrize(
    ("settings", "goal", "message"),
    [
        (
            SETTINGS,
            {"evaluations": 5},
            "no setting of Best has evaluations 5; available: 25 evaluations at inf dB, 16 eval",
        ),
        (
            SETTINGS,
            {"evaluations": 5, "speedup": 2.0},
            "5; available: 2.00x with 25 evaluations at inf dB, 3.00x with 16 evaluations at 36.5 dB$",
        ),
        (
            SETTINGS,
            {"min_psnr": 60, "reference": "converged"},
            r"has min_psnr 60; available: 2.00x at 44.0 dB, .* \(PSNR against the converged run\)$",
        ),
        (
            (Setting(SCHEDULE, 4, 3.0, 36.5, 0.9),),
            {"speedup": 2.0, "reference": "converged"},
            "cache.reference is converged, but no setting has psnr_converged; available: published",
        ),
        (
            (Setting(NoCacheConfig(), 9, 3.0, 36.5, 0.9, 3.0, {**SOLVER, "scheduler": {"name": "dpm"}}),),
            {"speedup": 2.0},
            "calibration.json: config.scheduler: must be one of .*'dpm_solver', .*, got 'dpm'",
        ),
        (
            (Setting(NoCacheConfig(), 9, 3.0, 36.5, 0.9, 3.0, {**SOLVER, "scheduler": {"name": "euler"}}),),
            {"speedup": 2.0},
            "scheduler is 'euler', which does not fit",
        ),
    ],
)
def test_errors_say_what_is_missing(latte, settings, goal, message):
    with pytest.raises(ValueError, match=message):
        resolved(latte(settings, **goal))


def test_a_plan_has_both_keys_of_a_sampler():
    with pytest.raises(
        ValueError, match="config has 'seed'; it must have 'scheduler', 'num_inference_steps', or nothing"
    ):
        Setting(NoCacheConfig(), 9, 3.0, 36.5, 0.9, config={"seed": 1})


def test_best_needs_a_goal():
    with pytest.raises(ValueError, match=r"cache\.evaluations"):
        BestConfig(reference="converged")
    with pytest.raises(ValueError, match="reference"):
        BestConfig(speedup=2.0, reference="exact")
    assert TeaCacheConfig(evaluations=9).has_goal


def test_plans_are_readable():
    latte = LatteConfig(scheduler=DPMSolverConfig(), num_inference_steps=20)
    assert plan_text(latte) == "DPM-Solver++ 2M, 20 steps, no cache"
    assert plan_text(LatteConfig(cache=SCHEDULE), SETTINGS[1]) == (
        "ddim, 50 steps, schedule of 4 evaluations, linear forecast of the prediction, 3.00 times as fast, "
        "36.5 dB from the published run, 30.1 dB from the converged run"
    )
    flow = OpenSoraConfig(scheduler=EulerConfig(shift=2.0), cache=PABConfig())
    assert plan_text(flow) == "Euler (shift 2.0), 30 steps, pab"
    assert UniPCConfig(grid="karras").title == "UniPC 2 (grid karras)"
    assert cache_text(IntervalConfig()) == "interval, hold of the blocks' residual"
    assert cache_text(TeaCacheConfig(0.1)) == "teacache, threshold 0.1, hold of the blocks' residual"


def test_the_printed_yaml_pins_the_plan(latte, tmp_path, capsys):
    for goal in ({"evaluations": 17}, {"evaluations": 17, "reference": "converged"}):
        config = latte(**goal)
        (tmp_path / "pinned.yaml").write_text(pinned(config))
        read = load_config(LatteConfig, tmp_path / "pinned.yaml")
        wanted = resolved(config)
        for name in ("scheduler", "num_inference_steps", "cache"):
            assert getattr(read, name) == getattr(wanted, name)
        assert (tmp_path / "pinned.yaml").read_text().startswith("# ")
    config = latte(evaluations=17)
    config = replace(config, cache=ScheduleConfig(evaluations=17, calibration=config.cache.calibration))
    (tmp_path / "pinned.yaml").write_text(pinned(config))
    assert load_config(LatteConfig, tmp_path / "pinned.yaml").cache == SCHEDULE
    arguments = ["--config", "examples/latte/tiny.yaml"]
    assert main(arguments) == 2
    assert "cache sets no goal for a plan" in capsys.readouterr().err
    more = ["cache.name=best", "cache.evaluations=17", f"cache.calibration={config.cache.calibration}"]
    assert main([*arguments, *more]) == 0
    assert "schedule of 4 evaluations" in capsys.readouterr().out


def test_a_plan_keeps_the_device_of_the_goal():
    config = LatteConfig(cache=BestConfig(speedup=2.0, device="cpu"))
    assert with_plan(config, SETTINGS[1]).cache.device == "cpu"
