"""examples/opensora/sample.py from arguments to files, and every mistake as one line before any weight."""

from __future__ import annotations

import json
import os
import re
import runpy
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch

from tests.tiny_checkpoint import MODEL, build_vae, places
from videosys import OpenSoraConfig, TeaCacheConfig, load_config, read_video
from videosys.generation import loader
from videosys.generation.offload import Component
from videosys.models.opensora.presets import COEFFICIENTS, PRESETS
from videosys.models.opensora.transformer import STDiT3, STDiT3Config
from videosys.utils.checkpoint import save_model

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples" / "opensora"
SCRIPT = EXAMPLES / "sample.py"
PROMPT = "a small red circle spins"
LINE = re.compile(
    r"(?P<path>\S+)  (?P<width>\d+)x(?P<height>\d+)  (?P<frames>\d+) frames at (?P<fps>[\d.]+) fps"
    r"  (?P<seconds>\d+\.\d) s  computed (?P<computed>\d+) of (?P<steps>\d+) steps(, .*)?"
)
main = runpy.run_path(str(SCRIPT), run_name="sample")["main"]
SMALL = ["height=32", "width=48", "num_frames=17", "fps=12", "num_inference_steps=3", "seed=5"]


@pytest.fixture
def settings(checkpoint, tmp_path):
    """Settings for a small video by the random checkpoint, in a folder of its own."""
    sources = [f"{name}={place}" for name, place in places(checkpoint).items()]
    return [*sources, *SMALL, f"output={tmp_path / 'out'}"]


def lines(capsys):
    """The lines about videos that were printed, taken apart."""
    found = [LINE.fullmatch(line) for line in capsys.readouterr().out.splitlines()]
    return [match for match in found if match]


def files(folder):
    return sorted(path.name for path in folder.rglob("*"))


CONFIGS = sorted(  # the calibrated one holds for its own steps and weights only: test_bundled.py
    path for path in [*EXAMPLES.glob("*.yaml"), EXAMPLES / "custom.py"] if path.stem != "tiny_calibrated"
)


def test_the_configs_are_the_ones_that_are_described():
    assert {path.name for path in CONFIGS} >= {
        "base.yaml",
        "teacache_slow.yaml",
        "teacache_fast.yaml",
        "pab_slow.yaml",
        "pab_fast.yaml",
        "tiny.yaml",
        "custom.py",
    }


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_every_config_makes_a_video(path, settings, tmp_path, capsys):
    assert main(["--config", str(path), f"prompt={PROMPT}", *settings]) == 0
    (line,) = lines(capsys)
    frames, fps = read_video(line["path"])
    assert frames.shape == (17, 32, 48, 3)
    assert fps == 12.0
    assert (line["width"], line["height"], line["frames"], line["fps"]) == ("48", "32", "17", "12")
    assert line["steps"] == "3"
    assert frames.float().std() > 20


@pytest.mark.parametrize(
    ("name", "cache"),
    [
        ("base.yaml", None),
        ("teacache_slow.yaml", TeaCacheConfig(0.1, COEFFICIENTS)),
        ("teacache_fast.yaml", TeaCacheConfig(0.2, COEFFICIENTS)),
        ("pab_slow.yaml", PRESETS["pab"]),
        ("pab_fast.yaml", PRESETS["pab_fast"]),
    ],
)
def test_the_published_configs_are_the_defaults(name, cache):
    config = load_config(OpenSoraConfig, EXAMPLES / name)
    assert config == (OpenSoraConfig() if cache is None else OpenSoraConfig(cache=cache))
    assert config.output_frames == 51
    assert config.size == (480, 854)


def test_without_a_config_it_says_which_one_and_why(settings, capsys, monkeypatch):
    for has_cuda, expected in ((False, "config: tiny.yaml"), (True, "config: base.yaml")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda has_cuda=has_cuda: has_cuda)
        assert main([f"prompt={PROMPT}", *settings, "device=cpu", "dtype=float32"]) == 0
        first, last = capsys.readouterr().out.splitlines()
        assert first.startswith(expected)
        assert ", because " in first
        assert LINE.fullmatch(last)


def test_the_last_line_counts_computed_steps_and_the_sidecar_tells_all(settings, capsys):
    cache = ["cache=teacache", "cache.threshold=0.3", "cache.coefficients=[1, 0]"]
    assert main([f"prompt={PROMPT}", *settings, *cache, "num_inference_steps=5", "plot=true"]) == 0
    (line,) = lines(capsys)
    assert 2 <= int(line["computed"]) < int(line["steps"]) == 5
    about = json.loads(Path(line["path"] + ".json").read_text())
    assert (about["prompt"], about["seed"]) == (PROMPT, 5)
    assert about["config"]["height"] == 32
    assert about["config"]["cache"]["threshold"] == 0.3
    assert sum(step["computed"] for step in about["steps"]) == int(line["computed"])
    assert [step["step"] for step in about["steps"]] == list(range(5))
    assert about["statistics"]["computed"] == int(line["computed"])
    assert about["statistics"]["bytes_held"] > 0
    assert about["compiled"] is None
    assert Path(line["path"] + ".steps.png").stat().st_size > 1000
    frames, _ = read_video(line["path"])
    assert len(frames) == int(line["frames"])


def test_what_compiling_took_is_told(settings, capsys, monkeypatch):
    # Graphs that run as they are: that needs no C++ compiler, and counts alike.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    monkeypatch.setattr(loader, "check_compiler", lambda *_: None)
    assert main([f"prompt={PROMPT}", *settings, "device=cpu", "compile=blocks"]) == 0
    (line,) = lines(capsys)
    about = json.loads(Path(line["path"] + ".json").read_text())["compiled"]
    assert (about["graphs"] >= 2, about["graph_breaks"], about["seconds"] > 0) == (True, 0, True)
    assert f"compiled {about['graphs']} graphs in {about['seconds']:.1f} s, 0 graph breaks" in line[0]


def test_a_drawn_seed_is_in_name_and_sidecar(settings, capsys):
    assert main([f"prompt={PROMPT}", *settings, "seed=null"]) == 0
    (line,) = lines(capsys)
    seed = json.loads(Path(line["path"] + ".json").read_text())["seed"]
    assert f"-s{seed}." in line["path"]
    assert main([f"prompt={PROMPT}", *settings, f"seed={seed}", "overwrite=true", "lossless=true"]) == 0
    assert lines(capsys)[0]["path"] == line["path"]


def test_nothing_is_overwritten_unless_asked(settings, capsys):
    paths = []
    for more in ([], [], [], ["overwrite=true"]):
        assert main([f"prompt={PROMPT}", *settings, *more]) == 0
        paths.append(Path(lines(capsys)[0]["path"]))
    stem = paths[0].stem
    assert [path.name for path in paths] == [f"{stem}.mp4", f"{stem}_2.mp4", f"{stem}_3.mp4", f"{stem}.mp4"]
    expected = [f"{name}.mp4{more}" for name in (stem, f"{stem}_2", f"{stem}_3") for more in ("", ".json")]
    assert files(paths[0].parent) == sorted(expected)


def test_the_same_command_gives_the_same_pixels(settings, capsys):
    for _ in range(2):
        assert main([f"prompt={PROMPT}", *settings, "lossless=true"]) == 0
    first, second = (read_video(line["path"])[0] for line in lines(capsys))
    assert torch.equal(first, second)


def test_several_prompts_and_videos(settings, capsys, tmp_path):
    (tmp_path / "prompts.txt").write_text("a cross\n\n a ring on a navy background \n", encoding="utf-8")
    more = [f"prompts={tmp_path / 'prompts.txt'}", "num_videos_per_prompt=2", "num_frames=1"]
    assert main([f"prompt={PROMPT}", *settings, *more]) == 0
    found = lines(capsys)
    assert len({line["path"] for line in found}) == 6
    sides = [json.loads(Path(line["path"] + ".json").read_text()) for line in found]
    texts = [PROMPT, "a cross", "a ring on a navy background"]
    assert [(side["prompt"], side["seed"]) for side in sides] == [(t, s) for t in texts for s in (5, 6)]


@pytest.mark.parametrize(("suffix", "frames"), [(".gif", 17), ("", 17), (".png", 1)])
def test_other_formats(settings, capsys, suffix, frames):
    assert main([f"prompt={PROMPT}", *settings, f"format={suffix}", f"num_frames={frames}"]) == 0
    (line,) = lines(capsys)
    assert read_video(line["path"])[0].shape == (frames, 32, 48, 3)


def test_quiet_prints_the_last_line_only(settings, capsys):
    assert main(["--config", str(EXAMPLES / "base.yaml"), f"prompt={PROMPT}", *settings, "quiet=true"]) == 0
    out, err = capsys.readouterr()
    assert LINE.fullmatch(out.strip())
    assert err == ""


def bad(name: str, *arguments: str):
    return pytest.param(list(arguments), id=name)


MISTAKES = [
    bad("unknown key", "num_step=5"),
    bad("unknown option", "--frames", "5"),
    bad("unknown section", "cash.low=cash"),
    bad("unknown key of a section", "cache=teacache", "cache.treshold=1"),
    bad("unknown cache", "cache=teacash"),
    bad("key of a cache that has none", "cache=none", "cache.threshold=1"),
    bad("no key=value", "seed"),
    bad("text for a number", "num_inference_steps=many"),
    bad("fraction for a count", "num_inference_steps=2.5"),
    bad("number for a switch", "offline=7"),
    bad("text for a list", "reference_paths=a.png"),
    bad("unknown choice", "dtype=float8"),
    bad("no steps", "num_inference_steps=0"),
    bad("no size", "height=0"),
    bad("negative size", "width=-64"),
    bad("small size", "height=15"),
    bad("half a size", "height=null"),
    bad("two sizes", "resolution=240p"),
    bad("unknown resolution", "height=null", "width=null", "resolution=333p"),
    bad("unknown aspect ratio", "height=null", "width=null", "aspect_ratio=7:1"),
    *(bad(f"{count} frames", f"num_frames={count}") for count in (*range(2, 17), 0, -1)),
    bad("unknown length", "num_frames=3s"),
    bad("empty prompt", "prompt="),
    bad("blank prompt", "prompt=  \t"),
    bad("blank prompt among others", "prompt=a cross", "prompt= "),
    bad("wrong loops", "prompt=|0|a day|x|a night"),
    bad("no prompts file", "prompts=/no/such/file.txt"),
    bad("threshold below zero", "cache=teacache", "cache.threshold=-1"),
    bad("no coefficients", "cache=teacache", "cache.coefficients=[]"),
    bad("seed below zero", "seed=-1"),
    bad("seed too large", "seed=9223372036854775808"),
    bad("unknown device", "device=abacus"),
    bad("missing device", "device=cuda:99"),
    bad("unknown format", "format=.avi"),
    bad("format without a dot", "format=mp4"),
    bad("capital format", "format=.MP4"),
    bad("lossless gif", "format=.gif", "lossless=true"),
    bad("one picture of many frames", "format=.png"),
    bad("crf too large", "crf=52"),
    bad("crf below zero", "crf=-1"),
    bad("missing reference", "reference_paths=[/no/such.png]"),
    bad("strategy without reference", "mask_strategy=0"),
    bad("unreadable strategy", "reference_paths=[a.png]", "mask_strategy=first"),
    bad("too short for loops", "num_frames=17", "loops=2"),
    bad("no folder", "transformer=/no/such/folder"),
    bad("no checkpoint in the folder", "vae=/"),
    bad("unknown bundled checkpoint", "text_encoder=bundled:nothing"),
    bad("missing config", "--config", "/no/such.yaml"),
    bad("folder as config", "--config", "/"),
]


@pytest.fixture
def no_weights(monkeypatch):
    def use(self):
        raise AssertionError("a weight was used")

    monkeypatch.setattr(Component, "use", use)
    monkeypatch.setattr("videosys.text_encoders.t5.load_weights", use)


def error_of(capsys):
    out, err = capsys.readouterr()
    assert not LINE.search(out)
    (line,) = err.splitlines()
    assert line.startswith("error: ")
    assert len(line) > 20
    return line


@pytest.mark.parametrize("arguments", MISTAKES)
def test_a_mistake_is_one_line_before_any_weight(arguments, settings, no_weights, capsys, tmp_path):
    given = [] if any("prompt" in argument for argument in arguments) else [f"prompt={PROMPT}"]
    try:
        status = main([*settings, *given, *arguments])
    except SystemExit as ended:  # how argparse reports options
        status = ended.code
    assert status == 2
    line = error_of(capsys)
    key, _, value = arguments[-1].rpartition("=")
    assert value.strip("[] \t") in line or key in line
    assert not any(path.is_file() for path in tmp_path.rglob("*"))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("list.yaml", b"- height: 3\n"),
        ("torn.yaml", b"height: [3\nwidth: }\n"),
        ("tabs.yaml", b"cache:\n\tname: none\n"),
        ("twice.yaml", b"height: 32\nheight: 64\n"),
        ("bytes.yaml", b"\xff\xfe\x00height"),
        ("unknown.yaml", b"heigth: 64\n"),
        ("type.yaml", b"guidance_scale: tall\n"),
        ("torn.py", b"config = ("),
        ("raising.py", b"raise RuntimeError('two\\nlines')"),
        ("without.py", b"x = 1"),
        ("other.py", b"config = 3"),
    ],
)
def test_a_config_that_cannot_be_read_is_one_line(name, content, settings, no_weights, capsys, tmp_path):
    (tmp_path / name).write_bytes(content)
    assert main(["--config", str(tmp_path / name), f"prompt={PROMPT}", *settings]) == 2
    assert name in error_of(capsys)


@pytest.mark.parametrize("kind", ["file", "below a file"])
def test_a_folder_that_cannot_be_written_is_one_line(kind, settings, no_weights, capsys, tmp_path):
    (tmp_path / "taken").write_text("x")
    output = tmp_path / "taken" if kind == "file" else tmp_path / "taken" / "below"
    assert main([*settings, f"prompt={PROMPT}", f"output={output}"]) == 2
    assert "taken" in error_of(capsys)


def test_prompts_that_cannot_be_read_are_one_line(settings, no_weights, capsys, tmp_path):
    for content in (b"", b" \n\n", b"\xff\xfe"):
        (tmp_path / "prompts.txt").write_bytes(content)
        assert main([*settings, f"prompts={tmp_path / 'prompts.txt'}"]) == 2
        assert "prompts.txt" in error_of(capsys)


def other_model(folder):
    config = STDiT3Config(
        hidden_size=16, depth=1, num_heads=2, caption_channels=MODEL.caption_channels, model_max_length=40
    )
    save_model(STDiT3(config).state_dict(), MODEL, folder)
    return "transformer"


def torn_vae(folder):
    state = build_vae().state_dict()
    state.pop("temporal_vae.quant_conv.conv.weight")
    save_model(state, build_vae().config, folder)
    return "vae"


def truncated(folder):
    save_model(STDiT3(MODEL).state_dict(), MODEL, folder)
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    return "transformer"


@pytest.mark.parametrize("write", [other_model, torn_vae, truncated])
def test_weights_that_do_not_fit_are_one_line(write, settings, capsys, tmp_path):
    name = write(tmp_path / "weights")
    assert main([*settings, f"prompt={PROMPT}", "quiet=true", f"{name}={tmp_path / 'weights'}"]) == 2
    assert str(tmp_path / "weights") in error_of(capsys)
    assert files(tmp_path / "out") == []


def test_an_interrupt_keeps_what_is_done_and_leaves_nothing_half(settings, capsys, tmp_path, monkeypatch):
    import imageio_ffmpeg

    write_frames, written = imageio_ffmpeg.write_frames, []

    def interrupted(path, *args, **more):
        written.append(path)
        if len(written) == 2:
            raise KeyboardInterrupt
        return write_frames(path, *args, **more)

    monkeypatch.setattr(imageio_ffmpeg, "write_frames", interrupted)
    assert main([*settings, f"prompt={PROMPT}", "prompt=a cross", "prompt=a ring"]) == 130
    (line,) = lines(capsys)
    name = Path(line["path"]).name
    assert files(tmp_path / "out") == [name, f"{name}.json"]


def start(arguments):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(SCRIPT), *arguments]
    # A shell lets its background jobs ignore Ctrl-C, and children inherit that.
    listen = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, env=environment, preexec_fn=listen, **pipes)


def test_as_a_command(settings):
    process = start([f"prompt={PROMPT}", *settings])
    out, err = process.communicate(timeout=100)
    assert process.returncode == 0, err
    line = LINE.fullmatch(out.decode().splitlines()[-1])
    assert read_video(line["path"])[0].shape == (17, 32, 48, 3)
    assert b"denoise" in err
    assert b"Traceback" not in err


def test_control_c_leaves_no_half_file(settings, tmp_path):
    process = start([f"prompt={PROMPT}", *settings, "num_inference_steps=10000"])
    seen, deadline = b"", time.monotonic() + 80
    while b"denoise" not in seen and time.monotonic() < deadline:
        new = os.read(process.stderr.fileno(), 4096)
        assert new, seen  # it ended by itself
        seen += new
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130, seen + err
    assert b"Traceback" not in seen + err
    assert b"interrupted" in err
    assert files(tmp_path / "out") == []
