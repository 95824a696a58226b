"""The evaluation from prompts to the report, on two tiny videos: killed, resumed, shared, asked wrongly."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import signal
from pathlib import Path
from types import ModuleType

import pytest

from tests.evaluation import (
    TEACACHE,
    counting,
    figures,
    making,
    manifest,
    metrics_script,
    opensora,
    report,
    runner,
)
from tests.stage import InProcess, Stage
from videosys import VideoSysEngine
from videosys.serve.cluster import split
from videosys.serve.executors import RayExecutor
from videosys.tiny import config as tiny_config

QUICK = [
    "--tiny",
    "--num-samples",
    "1",
    "--limit",
    "2",
    "--lossless",
    "num_frames=1",
    "num_inference_steps=4",
]


def start(output: Path, *more: str) -> int:
    return opensora.main([*QUICK, "--output", str(output), *more])


def files(output: Path, method: str) -> list[str]:
    return sorted(path.name for path in (output / "opensora_tiny" / method).glob("[!.]*.mp4"))


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """Two videos by each of four methods."""
    output = tmp_path_factory.mktemp("samples")
    assert start(output, "--methods", "base,teacache_slow,pab_fast,steps_5", "--quiet") == 0
    return output


def test_every_method_has_the_same_videos_and_a_full_record(made):
    with VideoSysEngine(tiny_config("opensora"), quiet=True) as engine:
        prompts = {record["prompt"] for record in manifest.read(made / "opensora_tiny" / "base").values()}
        tokens = {prompt: counting.text_tokens(engine.pipeline, prompt, engine.config) for prompt in prompts}
    for method in ("base", "teacache_slow", "pab_fast", "steps_5"):
        records = manifest.read(made / "opensora_tiny" / method)
        assert sorted(records) == files(made, method) == files(made, "base")
        for record in records.values():
            assert record["method"] == method
            assert record["seed"] == 0
            assert record["steps"] == len(record["decisions"]) == (5 if method == "steps_5" else 4)
            assert record["computed"] == record["decisions"].count("1")
            assert record["cpu_seconds"] > 0
            assert record["seconds"] > 0
            assert record["config"]["num_inference_steps"] == (5 if method == "steps_5" else 4)
            assert (record["reused_branches"] > 0) == (method == "pab_fast")
            assert record["text_tokens"] == tokens[record["prompt"]]
    (run,) = manifest.lines(made / "opensora_tiny" / "runs.jsonl")
    assert run["loading_and_warm_up_seconds"] > 0
    assert run["videos"] == 8
    assert run["transformer"]["kind"] == "STDiT3Config"
    assert len(run["caches"]["teacache_slow"]["coefficients"]) == 5  # the published ones, looked up


def test_a_second_run_makes_nothing(made, capsys, monkeypatch):
    monkeypatch.setattr(runner, "VideoSysEngine", None)
    assert start(made, "--methods", "base,teacache_slow") == 0
    assert "this process: 4 exist, 0 to generate" in capsys.readouterr().out


def test_a_run_that_was_killed_before_counting_counts_when_it_goes_on(made, tmp_path):
    shutil.copytree(made, tmp_path / "copy")
    path = tmp_path / "copy" / "opensora_tiny" / "flops.json"
    path.unlink()
    assert start(tmp_path / "copy", "--methods", "base,pab_fast", "--quiet") == 0
    assert path.read_text() == (made / "opensora_tiny" / "flops.json").read_text()


def test_the_report_tells_it_all(made, tmp_path, capsys):
    gt, generated = (str(made / "opensora_tiny" / name) for name in ("base", "steps_5"))
    output = tmp_path / "m.json"
    options = ["--gt_video_dir", gt, "--generated_video_dir", generated, "--output", str(output), "--quiet"]
    assert metrics_script.main(options) == 0
    assert report.main(["--root", str(made), "--output", str(tmp_path), "--no-projection", "--quiet"]) == 0
    text = (tmp_path / "report.md").read_text()
    rows = {line.split("|")[1].strip(): line for line in text.splitlines() if line.startswith("| ")}
    mean = json.loads(output.read_text())["mean"]["psnr"]["per_video"]
    assert f"{mean:.2f}" in rows["steps_5"]
    assert "4.0 of 4" in rows["base"]
    flops = {name: float(rows[name].split("|")[3]) for name in ("base", "pab_fast", "steps_5")}
    assert flops["base"] <= flops["steps_5"]
    assert flops["pab_fast"] < flops["base"]
    (count,) = json.loads((made / "opensora_tiny" / "flops.json").read_text()).values()
    assert count["flops"] < count["base"]
    assert "'base' is the method's own full run" in text
    assert "Quoted from the paper, not measured here" in text
    assert "TeaCache-slow" in text
    for name in ("opensora_tiny_psnr_latency.svg", "opensora_tiny_frames.png", "report.html"):
        assert (tmp_path / name).stat().st_size > 0


def test_the_papers_first_figure_has_every_method_that_was_made(made, tmp_path, capsys):
    assert figures.main(["quality", "--root", str(made), "--output", str(tmp_path)]) == 0
    path = Path(capsys.readouterr().out.strip())
    picture = path.read_text()
    assert path == tmp_path / "opensora_tiny_quality_latency.svg"
    for words in ("latency, s", "PSNR, dB", "SSIM", "teacache_slow", "pab_fast", "steps_5"):
        assert words in picture, words


def test_the_papers_third_figure_comes_from_full_runs(tmp_path, capsys):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: pip install -e '.[plot]'")
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a red circle\na blue square\n")
    options = ["--config", str(TEACACHE.parents[1] / "examples" / "opensora" / "tiny.yaml"), "--limit", "1"]
    options += ["--prompts", str(prompts), "--output", str(tmp_path / "figures")]
    assert figures.main(["changes", *options, "num_frames=1", "num_inference_steps=4"]) == 0
    assert (tmp_path / "figures" / "changes.png").read_bytes().startswith(b"\x89PNG")
    assert len(list((tmp_path / "figures" / "changes.work").glob("trace-*"))) == 1


def test_a_report_of_nothing_is_refused(tmp_path, capsys):
    assert report.main(["--root", str(tmp_path)]) == 2
    assert "contains no MODEL/base/manifest.jsonl" in capsys.readouterr().err


def test_other_settings_do_not_mix_with_what_is_there(made, capsys):
    assert start(made, "--methods", "base", "guidance_scale=3") == 2
    assert "was generated with another guidance_scale; choose another --output" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--methods", "teacach"], "method 'teacach' is unknown; allowed: base, reference"),
        (["--methods", "base", "--num-samples", "0"], "--num-samples is 0; it must be 1 or more"),
        (["--prompts", "none.txt"], "none.txt: cannot be read as prompts"),
        (["--config", "x.yaml"], "--tiny cannot be combined with --config"),
        (["num_frames=-1"], "num_frames"),
    ],
)
def test_mistakes_are_said_before_anything_is_loaded(tmp_path, capsys, monkeypatch, arguments, message):
    monkeypatch.setattr(runner, "VideoSysEngine", None)
    assert start(tmp_path, *arguments) == 2
    assert message in capsys.readouterr().err


def test_ranks_share_the_videos(made, tmp_path, monkeypatch):
    for rank in range(2):
        for name, value in {"RANK": rank, "WORLD_SIZE": 2, "LOCAL_RANK": rank}.items():
            monkeypatch.setenv(name, str(value))
        assert start(tmp_path, "--methods", "base", "--quiet") == 0
        assert len(files(tmp_path, "base")) == rank + 1
        assert "RANK" not in os.environ
    folder = tmp_path / "opensora_tiny" / "base"
    assert sorted(path.name for path in folder.glob("manifest*")) == [
        "manifest.0000.jsonl",
        "manifest.0001.jsonl",
    ]
    for name in files(tmp_path, "base"):
        assert (folder / name).read_bytes() == (made / "opensora_tiny" / "base" / name).read_bytes()


def test_a_cluster_makes_the_same_videos(made, tmp_path, monkeypatch, capsys):
    stages = []

    @contextlib.contextmanager
    def ray_executor(config, address, warm_up):
        stages.append(Stage("node", build=lambda node: InProcess(split(config)[0])))
        with contextlib.closing(RayExecutor(stages[-1], 1, warm_up)) as executor:
            yield executor

    monkeypatch.setattr(making, "ray_executor", ray_executor)
    cluster = ["--executor", "ray", "--methods", "base,teacache_slow"]
    assert start(tmp_path, *cluster, "--quiet") == 0
    for method in ("base", "teacache_slow"):
        ours, theirs = (folder / "opensora_tiny" / method for folder in (tmp_path, made))
        assert files(tmp_path, method) == files(made, method)
        for name, record in manifest.read(ours).items():
            assert (ours / name).read_bytes() == (theirs / name).read_bytes()
            expected = manifest.read(theirs)[name]
            taken = {"seconds", "cpu_seconds", "text_tokens"}
            assert {key: record[key] for key in record.keys() - taken} == {
                key: expected[key] for key in expected.keys() - taken
            }
            assert min(record["seconds"], record["cpu_seconds"]) > 0
    (run,) = manifest.lines(tmp_path / "opensora_tiny" / "runs.jsonl")
    assert run["device"].endswith("CPU, 1 threads")
    assert stages[0].started == ["node"]
    assert start(tmp_path, *cluster) == 0
    assert "this process: 4 exist, 0 to generate" in capsys.readouterr().out
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert start(tmp_path, *cluster) == 2
    assert "--executor ray cannot be combined with torchrun" in capsys.readouterr().err


def run_until_killed(output: Path, module: ModuleType, name: str, call: int) -> None:
    """Runs in another process, which gets a SIGKILL when a function is called for the `call`-th time."""
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        assert os.WTERMSIG(status) == signal.SIGKILL
        return
    original, calls = getattr(module, name), itertools.count(1)

    def counted(*arguments: object) -> object:
        if next(calls) == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments)

    setattr(module, name, counted)
    os._exit(start(output, "--methods", "base", "--quiet"))


@pytest.mark.parametrize(
    ("module", "name", "call", "done"),
    [
        (manifest, "append", 2, 0),  # the first line tells of the run; the video is there under a hidden name
        (manifest, "reveal", 1, 1),
        (runner, "keep", 2, 1),
        (manifest, "reveal", 2, 2),
    ],
)
def test_a_killed_run_goes_on_where_it_was(made, tmp_path, module, name, call, done, capsys):
    run_until_killed(tmp_path, module, name, call)
    assert start(tmp_path, "--methods", "base") == 0
    assert f"this process: {done} exist, {2 - done} to generate" in capsys.readouterr().out
    folder = tmp_path / "opensora_tiny" / "base"
    assert sorted(path.name for path in folder.iterdir()) == [*files(made, "base"), "manifest.jsonl"]
    lines = (folder / "manifest.jsonl").read_text().splitlines()
    assert sorted(json.loads(line)["file"] for line in lines) == files(made, "base")
    for file in files(made, "base"):
        assert (folder / file).read_bytes() == (made / "opensora_tiny" / "base" / file).read_bytes()
