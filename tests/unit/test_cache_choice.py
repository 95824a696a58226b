"""Goals become settings by a calibration file, and a file that does not fit is refused."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace

import pytest

from tests.tiny_checkpoint import text_to_video_config
from videosys import LatteConfig, OpenSoraConfig, OpenSoraPlanConfig, VideoSysEngine, load_config
from videosys.cache import (
    BestConfig,
    Calibration,
    Fitted,
    IntervalConfig,
    Linear,
    MagCacheConfig,
    NoCacheConfig,
    PABConfig,
    RunSpec,
    ScheduleConfig,
    SenCacheConfig,
    Setting,
    TeaCacheConfig,
    calibration_text,
    read_calibration,
    resolve_cache,
    start,
)
from videosys.parallel import Parallel

RUN = RunSpec("latte", "ddim", 30, 30, (2, 4, 4), 7.5, "abc")
TEA = [TeaCacheConfig(threshold, (2.0, 0.0)) for threshold in (0.1, 0.2, 0.3)]
SCHEDULE = ScheduleConfig(computed=(0, 1, 5), forecast=Linear())
SETTINGS = (
    Setting(NoCacheConfig(), 30, 1.0, None, 1.0),
    Setting(TEA[0], 20.5, 1.4, 35.0, 0.98),
    Setting(TEA[1], 12, 2.3, 25.0, 0.9),
    Setting(TEA[2], 9, 2.9, 20.06, 0.8),
    Setting(SCHEDULE, 12, 2.4, 31.0, 0.95),
    Setting(PABConfig(), 30, 1.3, 33.0, 0.96),
)


def write(path, scope=RUN, settings=SETTINGS, **more):
    path.write_text(calibration_text(Calibration(scope, settings, **more)))
    return str(path)


@pytest.mark.parametrize(
    ("goal", "expected"),
    [
        (TeaCacheConfig(speedup=1.2), TEA[0]),
        (TeaCacheConfig(speedup=2.0), TEA[1]),
        (TeaCacheConfig(speedup=2.9), TEA[2]),
        (TeaCacheConfig(min_psnr=22.0), TEA[1]),
        (TeaCacheConfig(min_psnr=35.0), TEA[0]),
        (TeaCacheConfig(min_psnr=21.0, speedup=2.0), TEA[1]),
        (ScheduleConfig(speedup=1.0), SCHEDULE),
        (PABConfig(min_psnr=30.0), PABConfig()),
        (BestConfig(speedup=2.0), SCHEDULE),
        (BestConfig(speedup=1.2), TEA[0]),
        (BestConfig(min_psnr=30.0), SCHEDULE),
        (BestConfig(min_psnr=99.0), NoCacheConfig()),
    ],
)
def test_the_goal_is_reached_with_the_best_picture_or_the_most_speed(goal, expected, tmp_path):
    path = write(tmp_path / "c.json")
    assert resolve_cache(replace(goal, calibration=path), lambda: RUN) == expected


@pytest.mark.parametrize(
    ("goal", "message"),
    [
        (
            TeaCacheConfig(speedup=4.0),
            "no setting of TeaCache has speedup 4; available: 1.40x at 35.0 dB, 2.30x",
        ),
        (TeaCacheConfig(min_psnr=40.0), "has min_psnr 40"),
        (TeaCacheConfig(min_psnr=30.0, speedup=2.0), "has speedup 2 and min_psnr 30"),
        (
            IntervalConfig(speedup=2.0),
            "has no settings of Interval; it has some of NoCache, PAB, Schedule, TeaCache$",
        ),
    ],
)
def test_a_goal_that_nothing_reaches_is_an_error(goal, message, tmp_path):
    path = write(tmp_path / "c.json")
    with pytest.raises(ValueError, match=message):
        resolve_cache(replace(goal, calibration=path), lambda: RUN)


def test_what_is_written_is_read_back(tmp_path):
    learnt = {"coefficients": (2.0, 0.5), "ratios": (1.0, 0.9), "details": {"prompts": ["a"], "R2": 0.9}}
    path = write(tmp_path / "c.json", **learnt)
    assert read_calibration(path) == Calibration(RUN, SETTINGS, **learnt)
    keys = json.loads((tmp_path / "c.json").read_text())
    assert {
        "model",
        "scheduler",
        "num_inference_steps",
        "evaluations",
        "size",
        "guidance_scale",
    } <= keys.keys()
    assert {"weights_hash", "coefficients", "settings"} <= keys.keys()
    assert keys["settings"][1]["policy"]["name"] == "teacache"


def test_a_file_is_short():
    weights = tuple((1.123456789012345, -0.123456789012345) for _ in range(30))
    row = Setting(ScheduleConfig(computed=(0, 29), forecast=Fitted(weights)), 2, 9.0, 20.123456789012345, 0.9)
    text = calibration_text(Calibration(RUN, (row, row)))
    assert "1.123456789, -0.123456789" in text
    assert sum('"policy"' in line for line in text.splitlines()) == 2
    assert len(text) < 2600


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "opensora"}, "was made with model latte, this run has opensora"),
        ({"scheduler": "pndm"}, "scheduler"),
        ({"num_inference_steps": 50}, "num_inference_steps 30, this run has 50"),
        ({"evaluations": 39}, "evaluations"),
        ({"weights_hash": "xyz"}, "weights_hash"),
    ],
)
def test_a_calibration_of_something_else_is_refused(change, message, tmp_path):
    path = write(tmp_path / "c.json")
    with pytest.raises(ValueError, match=message):
        resolve_cache(TeaCacheConfig(speedup=2.0, calibration=path), lambda: replace(RUN, **change))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"eta": 1}, r"was made with scheduler ddim, this run has ddim\(eta=1.0\)"),
        ({"beta_end": 0.03, "eta": 0.5}, r"this run has ddim\(beta_end=0.03, eta=0.5\)"),
        ({"beta_start": 0.001}, r"ddim\(beta_start=0.001\)"),
        ({"beta_schedule": "scaled_linear"}, r"ddim\(beta_schedule=scaled_linear\)"),
        (
            {"enable_temporal_attentions": False},
            r"was made with model latte, this run has latte\(enable_temporal_attentions=False\)",
        ),
    ],
)
def test_settings_of_lattes_sampler_and_blocks_are_compared(changes, message, tmp_path):
    path = write(tmp_path / "c.json")

    def settled(config):
        run = replace(RUN, model=config.model_name, scheduler=config.scheduler_name)
        return resolve_cache(TeaCacheConfig(speedup=2.0, calibration=path), lambda: run)

    assert settled(LatteConfig()) == TEA[1]
    with pytest.raises(ValueError, match=message):
        settled(LatteConfig(**changes))


@pytest.mark.parametrize("change", [{"size": (2, 8, 8)}, {"guidance_scale": 1.0}])
def test_another_size_or_guidance_warns(change, tmp_path, caplog):
    path = write(tmp_path / "c.json")
    settled = resolve_cache(TeaCacheConfig(speedup=2.0, calibration=path), lambda: replace(RUN, **change))
    assert settled == TEA[1]
    assert next(iter(change)) in caplog.text


def test_what_a_file_does_not_know_is_not_compared(tmp_path, caplog):
    path = write(tmp_path / "c.json", replace(RUN, weights_hash=None, size=None))
    assert resolve_cache(TeaCacheConfig(speedup=2.0, calibration=path), lambda: RUN) == TEA[1]
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": None}, "model is missing"),
        ({"settings": []}, "settings is missing"),
        ({"settings": [{"computed": 1}]}, r"settings\.0: policy: is missing"),
        (
            {"settings": [{"policy": "teacash", "computed": 1, "speedup": 1, "psnr": 1, "ssim": 1}]},
            "did you mean 'teacache'",
        ),
        (
            {"settings": [{"policy": "none", "computed": 0, "speedup": 1, "psnr": 1, "ssim": 1}]},
            "computed is 0",
        ),
        (
            {
                "settings": [
                    {
                        "policy": {"name": "teacache", "speedup": 2.0},
                        "computed": 1,
                        "speedup": 1,
                        "psnr": 1,
                        "ssim": 1,
                    }
                ]
            },
            "policy has a goal",
        ),
        ({"sise": [1, 2, 3]}, "did you mean 'size'"),
        ({"evaluations": "30"}, "evaluations: must be a whole number"),
    ],
)
def test_a_damaged_file_is_refused_with_its_name_and_key(change, message, tmp_path):
    path = tmp_path / "c.json"
    path.write_text(json.dumps({**Calibration(RUN, SETTINGS).to_json(), **change}))
    with pytest.raises(ValueError, match=message) as caught:
        read_calibration(path)
    assert str(path) in str(caught.value)


def test_coefficients_come_from_a_calibration_without_a_goal(tmp_path):
    path = write(tmp_path / "c.json", coefficients=(2.0, 0.5))
    resolved = resolve_cache(TeaCacheConfig(0.3, calibration=path), lambda: RUN)
    assert (resolved.coefficients, resolved.floor) == ((2.0, 0.5), True)
    given = TeaCacheConfig(0.3, (1.0, 0.0), calibration=path)
    assert resolve_cache(given, lambda: RUN) == given
    with pytest.raises(ValueError, match="has no coefficients"):
        resolve_cache(TeaCacheConfig(calibration=write(tmp_path / "d.json")), lambda: RUN)


@pytest.mark.parametrize("cls", [LatteConfig, OpenSoraConfig, OpenSoraPlanConfig])
@pytest.mark.parametrize("name", ["teacache", "teacache_slow", "{name: teacache, threshold: 0.1}"])
def test_coefficients_of_the_modulated_input_are_for_no_other_signal(cls, name, recwarn):
    text = [f"cache={name}", "cache.signal=timestep"]
    assert load_config(cls, overrides=text).with_default_coefficients().coefficients == (1.0, 0.0)
    assert not [item for item in recwarn if "coefficients" in str(item.message)]
    given = load_config(cls, overrides=[*text, "cache.coefficients=[3, 0]"]).with_default_coefficients()
    assert given.coefficients == (3.0, 0.0)
    preset = cls(cache=TeaCacheConfig(0.1)).with_default_coefficients()
    watched = load_config(
        cls, overrides=[f"cache={name}", "cache.signal=modulated"]
    ).with_default_coefficients()
    assert watched == preset


def test_calibrated_coefficients_are_for_no_other_signal_either(tmp_path, caplog):
    path = write(tmp_path / "c.json", coefficients=(2.0, 0.5))
    resolved = resolve_cache(TeaCacheConfig(0.3, signal="timestep", calibration=path), lambda: RUN)
    assert resolved.coefficients == (1.0, 0.0)
    assert f"{path} has coefficients for the modulated input; using [1, 0] for the timestep" in caplog.text


def test_ratios_come_from_a_calibration(tmp_path):
    ratios = (1.0, *(0.9 + step / 1000 for step in range(29)))
    path = write(tmp_path / "calibration.json", ratios=ratios)
    named, found = MagCacheConfig(threshold=0.3, calibration=path), MagCacheConfig(threshold=0.3)
    for config in (named, found, replace(found, calibration="beside")):
        resolved = resolve_cache(config, lambda: RUN, tmp_path)
        assert resolved == replace(config, ratios=ratios)
        assert len(resolved.computed_steps(30)) < 30
    own = MagCacheConfig((1.0,) * 30)
    assert resolve_cache(own, lambda: RUN, tmp_path) is own
    with pytest.raises(ValueError, match=r"cache MagCache needs a calibration, and there is no calib"):
        resolve_cache(found, lambda: RUN)
    with pytest.raises(ValueError, match="has no ratios"):
        resolve_cache(MagCacheConfig(calibration=write(tmp_path / "d.json")), lambda: RUN)


@pytest.mark.parametrize(
    ("policy", "name"),
    [
        (MagCacheConfig(ratios=(1.0, 0.9)), "ratios"),
        (SenCacheConfig(sensitivities=((0.1, 0.2),) * 2), "sensitivities"),
    ],
)
def test_another_number_of_values_than_steps_is_refused_before_anything_is_loaded(policy, name):
    with pytest.raises(ValueError, match=f"cache.{name} has 2 entries; there are 30 steps"):
        resolve_cache(policy, lambda: RUN)
    for run in (replace(RUN, evaluations=2), replace(RUN, evaluations=None)):
        assert resolve_cache(policy, lambda run=run: run) == policy


def test_coefficients_beside_the_weights_are_taken_where_asked_for(tmp_path):
    write(tmp_path / "calibration.json", coefficients=(2.0, 0.5))
    resolved = resolve_cache(TeaCacheConfig(0.3, calibration="beside"), lambda: RUN, tmp_path)
    assert resolved.coefficients == (2.0, 0.5)
    published = TeaCacheConfig(0.3)
    assert resolve_cache(published, lambda: RUN, tmp_path) is published


def test_what_could_be_had_is_said_without_what_is_beaten(tmp_path):
    path = write(tmp_path / "c.json")
    with pytest.raises(ValueError, match="has speedup 9; available: ") as caught:
        resolve_cache(BestConfig(speedup=9.0, calibration=path), lambda: RUN)
    assert str(caught.value).endswith("1.00x at inf dB, 1.40x at 35.0 dB, 2.40x at 31.0 dB, 2.90x at 20.0 dB")


def test_without_a_name_the_calibration_beside_the_weights_is_taken(tmp_path):
    with pytest.raises(ValueError, match=r"no calibration\*.json in .*python -m videosys.calibration"):
        resolve_cache(TeaCacheConfig(speedup=2.0), lambda: RUN, tmp_path)
    write(tmp_path / "calibration_50.json", replace(RUN, num_inference_steps=50))
    with pytest.raises(ValueError, match=r"calibration_50\.json: was made with num_inference_steps 50"):
        resolve_cache(TeaCacheConfig(speedup=2.0), lambda: RUN, tmp_path)
    write(tmp_path / "calibration_60.json")
    assert resolve_cache(TeaCacheConfig(speedup=2.0), lambda: RUN, tmp_path) == TEA[1]


def test_a_calibration_that_fits_wins_over_one_that_does_not(tmp_path, caplog):
    # The first differs in one thing, which forbids it; the second in two, which do not.
    write(tmp_path / "calibration_a.json", replace(RUN, num_inference_steps=50), SETTINGS[2:3])
    other = write(
        tmp_path / "calibration_b.json", replace(RUN, size=(2, 8, 8), guidance_scale=1.0), SETTINGS[3:4]
    )
    assert resolve_cache(TeaCacheConfig(speedup=1.0), lambda: RUN, tmp_path) == TEA[2]
    assert f"{other} was made with size (2, 8, 8)" in caplog.text
    write(tmp_path / "calibration_c.json", replace(RUN, size=(2, 8, 8)), SETTINGS[2:3])
    assert resolve_cache(TeaCacheConfig(speedup=1.0), lambda: RUN, tmp_path) == TEA[1]


def test_a_damaged_calibration_beside_the_weights_stops_no_other(tmp_path, caplog):
    (tmp_path / "calibration_a.json").write_text('{"model": ')
    with pytest.raises(ValueError, match=r"calibration_a\.json: cannot be read as JSON"):
        resolve_cache(TeaCacheConfig(speedup=2.0), lambda: RUN, tmp_path)
    assert caplog.text == ""
    write(tmp_path / "calibration_b.json")
    assert resolve_cache(TeaCacheConfig(speedup=2.0), lambda: RUN, tmp_path) == TEA[1]
    assert re.search(r"calibration_a\.json: cannot be read as JSON.*\(not used\)", caplog.text)
    named = TeaCacheConfig(speedup=2.0, calibration=str(tmp_path / "calibration_a.json"))
    with pytest.raises(ValueError, match="cannot be read as JSON"):
        resolve_cache(named, lambda: RUN, tmp_path)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TeaCacheConfig(0.3, speedup=2.0), "cache.threshold cannot be combined with a goal"),
        (lambda: TeaCacheConfig(forecast=Linear(), min_psnr=30.0), "cache.forecast cannot be combined"),
        (lambda: IntervalConfig(3, speedup=2.0), "cache.every cannot be combined"),
        (lambda: TeaCacheConfig(speedup=0.5), "cache.speedup is 0.5; it must be 1 or more"),
        (lambda: TeaCacheConfig(speedup=math.nan), "cache.speedup is nan"),
        (lambda: TeaCacheConfig(min_psnr=0.0), "cache.min_psnr is 0.0"),
        (lambda: TeaCacheConfig(speedup="2"), "speedup must be a number or null"),
        (lambda: BestConfig(), "best needs a goal"),
        (
            lambda: start(TeaCacheConfig(speedup=2.0), [1.0], Parallel().gather_rows),
            "has a goal but no settings",
        ),
    ],
)
def test_impossible_goals_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_no_file_is_read_and_no_run_described_without_need():
    def never():
        raise AssertionError

    for config in (NoCacheConfig(), TeaCacheConfig(), IntervalConfig(), PABConfig()):
        assert resolve_cache(config, never) is config


def test_a_goal_in_a_config_makes_a_video(random_model, tmp_path):
    name, folder = random_model
    config = text_to_video_config(name, folder)
    with VideoSysEngine(config, quiet=True) as engine:
        scope = engine.pipeline.scope(config)
        kinds = {"latte": ("latte", "ddim", 4), "open_sora_plan_v110": ("open_sora_plan_v110", "pndm", 13)}
        expected = kinds.get(name, ("open_sora_plan_v120", "euler_ancestral", 4))
        assert (scope.model, scope.scheduler, scope.evaluations) == expected
        assert (scope.num_inference_steps, len(scope.weights_hash)) == (4, 16)
        row = Setting(ScheduleConfig(computed=(0, 2)), 3, 1.5, 30.0, 0.9)
        path = write(tmp_path / "c.json", scope, (row,))
        output = engine.generate("a cat", cache=BestConfig(speedup=1.2, calibration=path))
        assert [s.step for s in output.steps if s.computed] == [0, 2, scope.evaluations - 1]
        with pytest.raises(ValueError, match="was made with num_inference_steps 4, this run has 5"):
            engine.generate("a cat", num_inference_steps=5, cache=BestConfig(speedup=1.2, calibration=path))


def test_a_goal_is_written_in_yaml(tmp_path):
    (tmp_path / "a.yaml").write_text("cache: {name: teacache, speedup: 2.0, calibration: c.json}\n")
    config = load_config(LatteConfig, tmp_path / "a.yaml")
    assert config.cache == TeaCacheConfig(speedup=2.0, calibration="c.json")
