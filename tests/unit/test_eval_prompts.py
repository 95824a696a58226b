"""Prompts of an evaluation, and the names of its videos: what VBench reads, and safe on every file system."""

from __future__ import annotations

import json
import re
import sys

import pytest
import torch

from tests.evaluation import latte, open_sora_plan, opensora, prompts, runner, vbench_found
from tests.evaluation import methods as methods_of
from videosys import LatteConfig, OpenSoraConfig, OpenSoraPlanConfig


def write_list(folder, *texts):
    rows = [{"prompt_en": text, "dimension": ["color"]} for text in texts]
    path = folder / "VBench_full_info.json"
    path.write_text(json.dumps(rows))
    return path


def test_vbench_names_its_videos_by_prompt_and_index(tmp_path):
    listed = prompts.load_prompts(str(write_list(tmp_path, "a red cat", "a dog's bone", "a red cat")))
    assert listed.prompts == ("a red cat", "a dog's bone")
    assert prompts.choose_naming("auto", listed, tmp_path) == "vbench"
    assert prompts.file_name("a red cat", 4, 7, "vbench") == "a red cat-4.mp4"


def test_the_list_of_an_installed_vbench_is_found_without_importing_it(tmp_path, monkeypatch):
    package = tmp_path / "vbench"
    package.mkdir()
    (package / "__init__.py").write_text("raise SystemExit('imported')")
    write_list(package, "a cup")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    assert prompts.load_prompts(None).prompts == ("a cup",)
    assert prompts.load_prompts("vbench").is_vbench
    assert not prompts.load_prompts(None, tiny=True).is_vbench


@pytest.fixture
def no_vbench(tmp_path, monkeypatch):
    """A machine without vbench."""
    monkeypatch.setattr(vbench_found, "package_here", lambda: None)
    monkeypatch.setattr(vbench_found, "ROOT", tmp_path / "repository")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.chdir(tmp_path)


def test_our_own_prompts_are_used_where_they_are_asked_for(no_vbench, tmp_path):
    listed = prompts.load_prompts("own")
    assert len(listed.prompts) == 12
    assert prompts.load_prompts(None, tiny=True) == prompts.load_prompts("own", tiny=True) != listed
    assert prompts.choose_naming("auto", listed, tmp_path) == "slug"
    assert not list(prompts.unsafe(listed.prompts, one_case=True))
    for word in (None, "vbench"):
        with pytest.raises(
            ValueError, match=r"no vbench with a VBench_full_info\.json.*--prompts own.*--tiny"
        ):
            prompts.load_prompts(word)


@pytest.mark.parametrize("place", ["here", "repository", "command", "named"])
def test_vbench_is_found_in_other_environments(no_vbench, tmp_path, monkeypatch, place):
    folders = {"here": tmp_path / ".venv-vbench", "repository": tmp_path / "repository" / ".venv-vbench"}
    folder = folders.get(place, tmp_path / "elsewhere")
    (folder / "bin").mkdir(parents=True)
    for name in ("python", "vbench"):
        (folder / "bin" / name).touch(mode=0o755)
    package = folder / "lib" / "python3.10" / "site-packages" / "vbench"
    package.mkdir(parents=True)
    path = write_list(package, "a cup")
    if place == "command":
        monkeypatch.setenv("PATH", str(folder / "bin"))
    python = str(folder / "bin" / "python")
    listed = prompts.load_prompts(None, python=python if place == "named" else None)
    assert (listed.prompts, listed.origin, listed.is_vbench) == (("a cup",), str(path), True)
    assert vbench_found.find_python() == (sys.executable if place == "named" else python)


@pytest.mark.parametrize(
    ("content", "message"),
    [("", "has no prompts"), ("\n \n", "has no prompts")],
)
def test_files_without_prompts_are_refused(tmp_path, content, message):
    path = tmp_path / "prompts.txt"
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        prompts.load_prompts(str(path))
    with pytest.raises(ValueError, match="cannot be read as prompts"):
        prompts.load_prompts(str(tmp_path / "none.txt"))


@pytest.mark.parametrize("content", ["{}", '[{"name": "a"}]', "{", "[1]"])
def test_json_of_another_kind_is_refused(tmp_path, content):
    path = tmp_path / "list.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"list\.json"):
        prompts.load_prompts(str(path))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("list.json", '["a cat", "a cat", "a dog"]'),
        ("list.json", '[{"prompt": "a cat"}, {"prompt": "a dog"}]'),
        ("list.jsonl", '{"prompt_en": "a cat"}\n"a dog"\n'),
        ("list.csv", "id,prompt\n1,a cat\n2,a dog\n"),
        ("list.txt", "\ufeffa cat\na dog\n"),
    ],
)
def test_lists_in_other_formats_are_no_list_of_vbenchs(tmp_path, name, content):
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    listed = prompts.load_prompts(str(path))
    assert listed.prompts == ("a cat", "a dog")
    assert prompts.choose_naming("auto", listed, tmp_path) == "slug"


@pytest.mark.parametrize(
    ("prompt", "reason"),
    [
        ("../../escape", "has '/'"),
        ("a/b", "has '/'"),
        ("a\\b", r"has '\\'"),
        ("what?", "has '?'"),
        ("one\ntwo", r"has '\n'"),
        ("nul\0", r"has '\x00'"),
        (".hidden", "starts with '.'"),
        ("-rf", "starts with '-'"),
        ("CON", "is a device name"),
        ("hidden\u202etext", "contains an invisible character"),
        ("x" * 221, "has 221 bytes; the limit is 220"),
        ("猫" * 80, "has 240 bytes"),
    ],
)
def test_prompts_that_are_no_file_names_are_refused_with_the_reason(tmp_path, prompt, reason):
    listed = prompts.PromptList(("a cat", prompt), "list", True)
    words = rf"1 prompts of list are not safe file names.*\({re.escape(reason)}.*--names slug"
    with pytest.raises(ValueError, match=words):
        prompts.choose_naming("auto", listed, tmp_path)
    assert prompts.choose_naming("slug", listed, tmp_path) == "slug"
    assert "/" not in prompts.file_name(prompt, 0, 3, "slug")


def test_vbenchs_prompts_that_differ_in_case_only_meet_on_some_file_systems(tmp_path, monkeypatch):
    listed = prompts.PromptList(("a fantasy landscape", "A fantasy landscape"), "list", True)
    monkeypatch.setattr(prompts, "folds_case", lambda folder: False)
    assert prompts.choose_naming("auto", listed, tmp_path) == "vbench"
    monkeypatch.setattr(prompts, "folds_case", lambda folder: True)
    with pytest.raises(ValueError, match="differs only in case from 'a fantasy landscape', which"):
        prompts.choose_naming("auto", listed, tmp_path)
    assert len({prompts.file_name(text, 0, 3, "slug") for text in listed.prompts}) == 2


def test_the_file_system_is_asked_whether_it_tells_case_apart(tmp_path):
    (tmp_path / "Probe").touch()
    expected = (tmp_path / "pROBE").exists()
    assert prompts.folds_case(tmp_path) is prompts.folds_case(tmp_path / "not" / "there") is expected
    assert [path.name for path in tmp_path.iterdir()] == ["Probe"]


def test_methods_are_runs_presets_and_files(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("cache: {name: teacache, threshold: 0.3}")
    config = OpenSoraConfig()
    found = methods_of.parse_methods(f"base, reference,steps_12,teacache_fast,{path}", config, 4)
    made = {method.name: dict(method.request) for method in found}
    assert list(made) == ["base", "reference", "steps_12", "teacache_fast", "mine"]
    assert made["reference"]["num_inference_steps"] == 120
    assert made["steps_12"]["num_inference_steps"] == 12
    assert made["teacache_fast"] == {"cache": "teacache_fast"}
    assert made["mine"]["cache"].threshold == 0.3


@pytest.mark.parametrize("config", [OpenSoraConfig(), LatteConfig(), OpenSoraPlanConfig(version="v110")])
def test_the_methods_of_the_paper_are_known_for_every_model(config):
    wanted = "base,teacache_slow,teacache_fast,pab_slow,pab_fast"
    assert methods_of.named(methods_of.parse_methods(wanted, config)) == wanted.split(",")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("base,teacach", r"method 'teacach' is unknown; allowed: base, reference, steps_N, .*teacache_slow"),
        (" , ", "names no method"),
        ("base,base", "names a method twice"),
        ("nowhere.yaml", "no such config file"),
        ("base=nowhere.yaml", "'base' is not a valid method name; use NAME=FILE"),
        ("-x y.yaml", "'-x y' is not a valid method name"),
    ],
)
def test_unknown_methods_are_refused(text, message):
    with pytest.raises(ValueError, match=message):
        methods_of.parse_methods(text, OpenSoraConfig())


def test_a_file_of_settings_is_a_method_by_its_name_or_a_given_one(tmp_path):
    (tmp_path / "a=b").mkdir()
    path = tmp_path / "a=b" / "mine.yaml"
    path.write_text("cache: {name: interval, every: 3}")
    plain, named = methods_of.parse_methods(f"{path},better={path}", OpenSoraConfig())
    assert (plain.name, named.name) == ("mine", "better")
    assert plain.request == named.request
    assert plain.request["cache"].every == 3


@pytest.mark.parametrize(
    ("study", "version", "steps"),
    [
        (latte.STUDY, "latte_1", 50),
        (opensora.STUDY, "v1_2", 30),
        (open_sora_plan.STUDY, "v110", 150),
        (open_sora_plan.STUDY, "v120", 100),
    ],
)
def test_the_papers_commands_plan_the_published_runs(study, version, steps, tmp_path):
    options = ["--version", version, "--output", str(tmp_path), "--prompts", "own"]
    arguments = runner.parser(study).parse_args(options)
    run = runner.plan(study, arguments)
    assert methods_of.num_steps(run.config) == steps
    assert len(run.jobs) == 3 * 5 * len(prompts.load_prompts("own").prompts)
    assert [job.method.name for job in run.jobs[:3]] == ["base", "teacache_slow", "teacache_fast"]
    assert len({(job.method.name, job.file) for job in run.jobs}) == len(run.jobs)
    assert [job.seed for job in run.jobs[:15:3]] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("world", [2, 3, 4])
def test_a_process_makes_a_video_by_every_method(world, tmp_path, monkeypatch):
    options = ["--tiny", "--output", str(tmp_path), "--methods", "base,teacache_slow,pab_slow,pab_fast"]
    shares = []
    for rank in range(world):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", str(world))
        run = runner.plan(opensora.STUDY, runner.parser(opensora.STUDY).parse_args(options))
        shares.append(run.own_jobs)
    made = [(job.method.name, job.file) for share in shares for job in share]
    assert sorted(made) == sorted((job.method.name, job.file) for job in run.jobs)
    for share in shares:
        files = {
            name: {job.file for job in share if job.method.name == name} for name in ("base", "pab_fast")
        }
        assert files["base"] == files["pab_fast"] != set()
    assert max(map(len, shares)) - min(map(len, shares)) <= 4


def test_a_setting_that_does_not_fit_the_tiny_checkpoint_is_said_without_a_file(tmp_path):
    arguments = runner.parser(opensora.STUDY).parse_intermixed_args(
        ["--tiny", "--output", str(tmp_path), "num_frames=5"]
    )
    with pytest.raises(ValueError, match=r"^num_frames is 5; "):
        runner.plan(opensora.STUDY, arguments)


def test_a_study_of_several_devices_keeps_what_was_chosen(tmp_path):
    arguments = runner.parser(opensora.STUDY).parse_intermixed_args(
        ["--output", str(tmp_path), "--prompts", "own", "parallel.num_gpus=2", "device=cpu"]
    )
    run = runner.plan(opensora.STUDY, arguments)
    assert run.ranks.together
    assert not run.counts
    assert not run.encodes
    assert run.config.parallel.num_gpus == 2


@pytest.mark.parametrize("has_gpu", [False, True])
def test_without_weights_and_gpu_the_tiny_checkpoint_is_named(tmp_path, monkeypatch, capsys, has_gpu):
    def engine(*_, **__):
        raise ValueError("checkpoint 'x' is not on the hub")

    monkeypatch.setattr(runner, "VideoSysEngine", engine)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    monkeypatch.setattr(runner, "on_device", lambda config, ranks: config)
    options = ["--output", str(tmp_path), "--prompts", "own", "--limit", "1", "--num-samples", "1"]
    assert opensora.main(options) == 2
    out, err = capsys.readouterr()
    assert f"prompts: 1 of {prompts.OWN}" in out
    assert "checkpoint 'x' is not on the hub" in err
    assert ("--tiny" in err) != has_gpu
