"""What a report reads of a folder of samples, whole or not."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from tests.evaluation import compare, manifest, report, results, runner, sections, work, write

SIZE = {"frames": 3, "height": 24, "width": 32}
CONFIG = {"transformer": "nobody/nothing"}


def made(folder, method: str, names: str, value: int = 100, **more) -> None:
    """Videos of a method with their records."""
    (folder / method).mkdir(parents=True, exist_ok=True)
    for name in names:
        record = {
            "file": f"{name}.mp4",
            "prompt": name,
            "steps": 4,
            "computed": 4,
            "seconds": 2.0,
            "cpu_seconds": 1.0,
            "reused_branches": 0,
            "cache": {"name": "none"},
            "config": CONFIG,
            **SIZE,
            **more,
        }
        write(folder / method / f"{name}.mp4", value=value + ord(name))
        manifest.append(folder / method / manifest.NAME, record)


@pytest.fixture
def samples(tmp_path):
    """A model with two videos of base, and a method that was stopped after the first."""
    folder = tmp_path / "model"
    made(folder, "base", "ab")
    made(folder, "fast", "a", value=110, reused_branches=5)
    manifest.append(folder / runner.RUNS, {"device": "x86_64 CPU, 1 threads"})
    return folder


def load(folder, *names):
    return results.load_model(folder, compare.make_metrics(names or ("psnr",), "cpu", 8), quiet=True)


def test_methods_with_other_videos_than_the_base_are_said(samples):
    model = load(samples)
    blocks = [block.words for block in sections.doubts(model)]
    assert blocks[0].startswith("Some methods lack videos; of base's 2 videos, they have: fast (1).")
    made(samples, "fast", "b", value=110)
    assert "Some methods lack" not in next(sections.doubts(load(samples))).words


def test_a_run_that_went_on_elsewhere_is_said(samples):
    assert load(samples).devices == ("x86_64 CPU, 1 threads",)
    manifest.append(samples / runner.RUNS, {"device": "NVIDIA H200"})
    model = load(samples)
    assert model.devices == ("x86_64 CPU, 1 threads", "NVIDIA H200")
    assert "generated on different devices" in [block.words for block in sections.doubts(model)][1]


@pytest.mark.parametrize(
    ("device", "seconds"), [("x86_64 CPU, 1 threads", 1.0), ("x86_64 CPU, 8 threads", 2.0), ("H200", 2.0)]
)
def test_seconds_are_the_processs_own_on_one_thread_alone(samples, device, seconds):
    (samples / runner.RUNS).write_text(json.dumps({"device": device}) + "\n")
    assert load(samples).base.latency == seconds


@pytest.mark.parametrize(("name", "mark"), [("latte_tiny", "tiny"), ("latte", "run")])
def test_what_a_model_needed_is_marked_by_whether_it_is_tiny(samples, name, mark):
    made(samples, "teacache_slow", "ab", computed=3)
    model = replace(load(samples), name=name)
    setting = next(item for item in work.SETTINGS if item.study == "latte")
    found = sections.shares(setting, [model])
    assert found[f"teacache_slow ({mark})"] == setting.plan.evaluations * 3 / 4
    assert found["TeaCache-slow (paper)"] == 27


def test_steps_of_which_branches_were_reused_count_in_part(samples):
    model = load(samples)
    assert sections.figures(model.result("fast"), model.base)[1] == "4.0 of 4, in part"
    assert sections.figures(model.base, model.base)[1] == "4.0 of 4"


def test_a_method_without_videos_is_no_row_and_a_base_without_is_an_error(samples, capsys):
    (samples / "fast" / "a.mp4").unlink()
    assert [result.name for result in load(samples).results] == ["base"]
    for path in (samples / "base").glob("*.mp4"):
        path.unlink()
    assert report.main(["--root", str(samples.parent), "--no-projection"]) == 2
    assert "base: none of the videos in its manifest exists" in capsys.readouterr().err


def test_methods_without_a_video_in_common_have_no_likeness(samples):
    (samples / "base" / "a.mp4").unlink()
    for _ in range(2):
        assert load(samples).result("fast").value("base", "psnr") is None


def test_what_was_measured_with_weights_stays_when_they_are_not_given(samples):
    load(samples)
    path = samples / "metrics" / "fast_against_base.json"
    content = json.loads(path.read_text())
    content["videos"][0]["lpips"] = 0.25
    path.write_text(json.dumps(content))
    assert load(samples).result("fast").value("base", "lpips") == 0.25
    assert load(samples, "psnr", "ssim").result("fast").value("base", "lpips") is None  # measured anew
