"""`calibrate`: what it writes for a pipeline of diffusers, and what `cached` makes of it."""

from __future__ import annotations

from types import MappingProxyType

import pytest
import torch
from PIL import Image

from tests.video_classes import ALL
from tests.video_pipelines import case, generate
from videosys.cache import IntervalConfig, read_calibration
from videosys.diffusers import cached, calibrate
from videosys.diffusers.__main__ import main
from videosys.diffusers.calibrate import jobs_of
from videosys.diffusers.checks import digest, run_spec
from videosys.diffusers.study import PipelineStudy, Recording, videos_of
from videosys.diffusers.watch import Watcher

STEPS = 10
EVERY_SECOND = IntervalConfig(every=2)


def parts(name: str):
    """(pipeline, what stands for a prompt, the other arguments of its call)."""
    pipe, call = case(name)
    prompt = {key: value for key, value in call.items() if "embeds" in key or "mask" in key}
    call = {key: value for key, value in call.items() if key not in prompt}
    return pipe, prompt, {**call, "num_inference_steps": STEPS}


@pytest.fixture(scope="module", name="wan")
def calibrated_wan(tmp_path_factory):
    pipe, prompt, call = parts("wan")
    out = tmp_path_factory.mktemp("calibration") / "wan.json"
    return pipe, {**prompt, **call}, out, calibrate(pipe, [prompt], out=out, **call)


def test_half_of_the_calls_compute_at_a_speedup_of_two(wan):
    pipe, call, out, calibration = wan
    latents = []
    for given in (calibration, out, str(out)):
        with cached(pipe, given, speedup=2.0) as run:
            latents.append(generate(pipe, call))
        assert sum(step.computed for step in run.steps) == STEPS
        assert len(run.steps) == 2 * STEPS
    assert torch.equal(latents[0], latents[1])
    assert torch.equal(latents[0], latents[2])


def test_the_file_is_the_calibration_and_says_what_it_is_of(wan):
    _, _, out, calibration = wan
    read = read_calibration(out)
    assert read.scope == calibration.scope
    assert {row.policy.place for row in read.settings} == {calibration.settings[0].policy.place}
    assert calibration.scope.model.startswith("WanPipeline of WanTransformer3DModel ")
    assert calibration.scope.scheduler.startswith("UniPCMultistepScheduler(flow_shift=3.0, ")
    assert (calibration.scope.num_inference_steps, calibration.scope.evaluations) == (STEPS, STEPS)
    assert {row.policy.place for row in calibration.settings} <= {"stack", "output"}
    assert "speed-up is the number of the model's calls" in out.with_suffix(".md").read_text()


@pytest.mark.parametrize(
    "options", [{"cache": "teacache", "speedup": 1.1}, {"min_psnr": 30.0}, {"cache": "magcache"}]
)
def test_goals_and_policies_take_what_was_measured(wan, options):
    pipe, call, out, _ = wan
    with cached(pipe, out, **options) as run:
        generate(pipe, call)
    assert 4 <= sum(step.computed for step in run.steps) < 2 * STEPS


def test_another_run_is_refused(wan):
    pipe, call, _, calibration = wan
    with (
        cached(pipe, calibration, speedup=2.0),
        pytest.raises(ValueError, match="num_inference_steps 10, this run"),
    ):
        generate(pipe, call, num_inference_steps=8)
    with torch.no_grad():
        pipe.transformer.proj_out.bias += 1  # as an adapter's weights would
        with pytest.raises(ValueError, match="weights_hash"):
            cached(pipe, calibration, speedup=2.0).__enter__()
        pipe.transformer.proj_out.bias -= 1
    other, _ = case("ltx")
    with pytest.raises(ValueError, match="was made with model WanPipeline of "):
        cached(other, calibration, speedup=2.0).__enter__()


@pytest.mark.parametrize("name", ["latte", "hunyuan_video", "wan_two_models"])
def test_pipelines_of_other_kinds(tmp_path, name):
    pipe, prompt, call = parts(name)
    calibration = calibrate(pipe, [prompt], out=tmp_path / "out.json", budgets=[5], **call)
    with cached(pipe, calibration, speedup=2.0) as run:
        generate(pipe, {**prompt, **call})
    computed = sum(step.computed for step in run.steps)
    assert 2 * computed == len(run.steps)


# Latents that are written in place; a scheduler for each frame; two loops.
@pytest.mark.parametrize("name", ["kandinsky5", "skyreels_diffusion_forcing", "helios"])
def test_all_changes_of_a_full_run_are_seen(name):
    pipe, call = case(name)
    watcher = Watcher()
    with cached(pipe, cache=Recording()) as run:
        watcher.watch(run)
        latents = generate(pipe, call)
    traces = watcher.traces(latents)
    assert len(traces) == run.num_loops == (2 if name == "helios" else 1)
    for trace in traces:
        steps = len(watcher.loops[0].times)
        assert trace.tried.shape[0] == steps == call["num_inference_steps"]
        for kind in ("noisy_input", "modulated_input", "output", "residual", "timestep_embedding"):
            assert len(trace.distances[kind]) == steps - 1
            assert min(trace.distances[kind]) > 0
    gains = [gain for loop in watcher.loops for gain in loop.gains]
    assert min(gains) > 1e-4


def test_results_of_other_videos_are_not_taken(tmp_path):
    """Seeds, held-out videos and images are part of a folder's identity, in every process."""
    pipe, prompt, call = parts("latte")
    prompts = [{**prompt, "guidance_scale": scale} for scale in (2.0, 3.0, 4.0)]

    def study(clips, seed=0, **more):
        learnt, judged = jobs_of(clips, seed)
        sets = (videos_of(pipe, {**call, **more}, some, "output") for some in (learnt, judged))
        return PipelineStudy(*sets, tmp_path / "work", seed, lambda steps: None)

    study(prompts)
    study(prompts)
    for clips, seed, more in (
        (prompts, 1, {}),
        ([*prompts[:2], prompts[0]], 0, {}),
        ([*prompts[:2], {**prompts[2], "guidance_scale": 5.0}], 0, {}),
        (prompts, 0, {"eta": 0.5}),
    ):
        with pytest.raises(ValueError, match="work holds results of another run"):
            study(clips, seed, **more)


def test_a_digest_depends_on_values_not_on_addresses():
    images = [Image.new("RGB", (4, 4), color) for color in ("red", "red", "blue")]
    one, same, other = (digest({"image": [image]}) for image in images)
    assert one == same != other
    assert digest(torch.Generator()) == digest(torch.Generator())
    assert digest(torch.ones(2)) == digest([1.0, 1.0]) == digest((1.0, 1.0))
    assert digest(MappingProxyType({"a": 1})) == digest({"a": 1})


def test_what_cannot_be_calibrated_is_refused(tmp_path):
    pipe, prompt, call = parts("ltx")
    for prompts in ([], "a cat", prompt):
        with pytest.raises(ValueError, match="they must be a list of one or more"):
            calibrate(pipe, prompts, **call)
    with pytest.raises(ValueError, match=r"out is 'cal.md'; it must end in \.json"):
        calibrate(pipe, [prompt], out="cal.md", **call)
    for steps in (0, 2.5, "six", True):
        with pytest.raises(ValueError, match=r"num_inference_steps is .*; it must be a whole number"):
            calibrate(pipe, [prompt], out=tmp_path / "out.json", **{**call, "num_inference_steps": steps})
    with pytest.raises(ValueError, match=r"must be 2 to 9, of 10 steps"):
        calibrate(pipe, [prompt], out=tmp_path / "out.json", budgets=[10], **call)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rows": 32}, "rows is not an argument of LTXPipeline that can be set here; allowed: 'prompt', "),
        ({"budget": [5]}, "budget is not an argument of LTXPipeline"),
        ({"generator": torch.Generator()}, "generator is not an argument of LTXPipeline that can be set"),
        ({"height": "tall"}, "height is 'tall'; it must be a number"),
        ({"guidance_scale": "high"}, "guidance_scale is 'high'; it must be a number"),
        ({"output_type": "mp4"}, "output_type is 'mp4'; allowed: 'pil', 'np', 'pt', 'latent'"),
        ({"budgets": [2.5]}, r"budgets are \[2.5\]; they must be a list of whole numbers, 2 or more"),
        ({"budgets": 5}, "budgets are 5; they"),
        ({"budgets": [True, 5]}, "budgets are"),
        ({"search": -1}, "search is -1; it must be a number, 0 or more, and finite"),
        ({"search": float("nan")}, "search is nan"),
        ({"search": "long"}, "search is 'long'"),
        ({"seed": 1.5}, "seed is 1.5; it must be a whole number"),
        ({"place": None}, "place is None; allowed: auto, output, stack"),
        ({"out": None}, "out is 'None'; it must end in"),
        ({"prompts": [3]}, r"prompts\[0\] is 3; it must be a text, or arguments of the pipeline's call"),
        ({"prompts": [{"promt": "a cat"}]}, "promt is not an argument of LTXPipeline"),
        ({"prompts": iter(["a cat"])}, "they must be a list of one or more"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_runs(options, message, tmp_path):
    pipe, prompt, call = parts("ltx")
    pipe.transformer.forward = None  # fails if it is called
    options = {"prompts": [prompt], "out": tmp_path / "out.json", **call, **options}
    with pytest.raises(ValueError, match=message) as error:
        calibrate(pipe, **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("options", [{"budgets": [11]}, {"num_inference_steps": 3}])
def test_a_wrong_number_of_steps_is_refused_in_the_first_call_of_the_model(options, tmp_path):
    pipe, prompt, call = parts("ltx")
    calls = []
    pipe.transformer.register_forward_pre_hook(lambda *_: calls.append(1))
    with pytest.raises(ValueError, match=r"they must be 2 to 9, of 10 steps|a calibration needs 4"):
        calibrate(pipe, [prompt], out=tmp_path / "out.json", **{**call, **options}, place="output")
    assert len(calls) == 1


UNLIKE = {"pyramid_num_inference_steps_list": [4, 5, 4]}
ASYNCHRONOUS = {"ar_step": 2, "causal_block_size": 1, "num_inference_steps": 6}


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        (
            "helios_pyramid",
            UNLIKE,
            "loop 2 of the scheduler has other timesteps than loop 1; a calibration needs",
        ),
        (
            "skyreels_diffusion_forcing",
            ASYNCHRONOUS,
            "makes 10 steps for 6 timesteps of the scheduler; a cal",
        ),
        ("ltx_long", {"sigmas": None, "num_inference_steps": 6}, "makes 5 steps for 6 timesteps"),
    ],
)
def test_loops_that_cannot_be_calibrated_are_refused_in_the_first_run(tmp_path, name, changes, message):
    torch.manual_seed(0)
    pipe, call = ALL[name]()
    call = {**call, **changes}
    prompt = {key: call.pop(key) for key in list(call) if "prompt" in key}
    with pytest.raises(ValueError, match=message) as error:
        calibrate(pipe, [prompt], out=tmp_path / "out.json", **call)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []
    with cached(pipe, cache=EVERY_SECOND) as run:
        generate(pipe, {**prompt, **call})
    assert len({step.computed for step in run.steps}) == 2


@pytest.mark.slow
def test_defaults_of_the_call_are_part_of_the_calibrated_run(tmp_path):
    pipe, prompt, call = parts("ltx")
    del call["num_inference_steps"]
    scope = calibrate(pipe, [prompt], out=tmp_path / "out.json", budgets=[25], **call).scope
    assert (scope.num_inference_steps, scope.evaluations, scope.guidance_scale) == (50, 50, 3.0)


def test_the_scale_of_a_guider_is_part_of_the_run():
    pipe, _ = case("motif_video")
    assert run_spec(pipe).guidance_scale == 3.0
    assert run_spec(pipe, {"guidance_scale": 5}).guidance_scale == 5.0


@pytest.fixture(name="prompts")
def file_of_prompts(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("a large red circle moves rightward on a white background\n")
    return path


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--pipeline", "mochi", "--tiny"],
            "--pipeline mochi has no tiny model; with --tiny it must be one of 'wan', 'hunyuan_video', 'ltx'",
        ),
        (["--pipeline", "no/folder/here"], "cannot load no/folder/here: "),
        (["--pipeline", "wan"], "cannot load Wan-AI/Wan2.1-T2V-1.3B-Diffusers: "),  # not downloaded
        (["--tiny"], "--pipeline"),
        (["--pipeline", "wan", "--tiny", "7"], "'7' is not KEY=VALUE"),
        (["--pipeline", "wan", "--tiny", "out=3"], "out is not an argument of WanPipeline"),
        (["--pipeline", "wan", "--tiny", "prompt=a cat"], "prompt is not an argument of WanPipeline"),
        (["--pipeline", "wan", "--tiny", "num_inference_steps=six"], "num_inference_steps is 'six'"),
        (
            ["--pipeline", "wan", "--tiny", "guidance_scale=high"],
            "guidance_scale is 'high'; it must be a num",
        ),
        (
            ["--pipeline", "wan", "--tiny", "height=32", "height=64"],
            "height is set twice, to 32 and 64",
        ),
        (["--pipeline", "wan", "--tiny", "--search", "-1"], "search is -1.0; it must be a number, 0 or more"),
    ],
)
def test_the_command_answers_a_mistake_in_one_line(options, message, prompts, tmp_path, capsys):
    argv = [*options, "--prompts", str(prompts), "--out", str(tmp_path / "out.json")]
    assert status(argv) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert message in errors[0]


def status(argv: list[str]) -> object:
    """The exit status of the command, which ends the process where it cannot read its arguments."""
    try:
        return main(argv)
    except SystemExit as ended:
        return ended.code


def test_the_command_calibrates_a_tiny_random_pipeline(prompts, tmp_path, capsys):
    out = tmp_path / "out.json"
    options = ["--pipeline", "ltx", "--tiny", "--budgets", "3", "num_inference_steps=6"]
    assert main([*options, "--prompts", str(prompts), "--out", str(out)]) == 0
    assert "computed" in capsys.readouterr().out
    assert read_calibration(out).scope.model.startswith("LTXPipeline of LTXVideoTransformer3DModel ")


@pytest.mark.slow
def test_the_command_calibrates_a_pipeline(prompts, tmp_path, capsys):
    out = tmp_path / "out.json"
    sizes = ["num_inference_steps=6", "num_frames=9", "guidance_scale=1.0"]
    options = ["--pipeline", "wan", "--tiny", "--budgets", "3", *sizes]
    assert main([*options, "--prompts", str(prompts), "--out", str(out)]) == 0
    assert "computed" in capsys.readouterr().out
    assert read_calibration(out).scope.model.startswith("WanPipeline of WanTransformer3DModel ")
