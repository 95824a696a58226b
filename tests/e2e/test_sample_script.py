"""What the sample scripts do around the model: names, JSON files, arguments in any order, the log."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest
import torch

from tests.tiny_checkpoint import places
from videosys.utils import plots, sidecar

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "opensora"
sample = runpy.run_path(str(EXAMPLES / "sample.py"), run_name="sample")
main = sample["main"]
common = sample["common"]
PROMPT = "prompt=a small red circle spins"
SMALL = ["height=32", "width=48", "num_frames=1", "fps=12", "num_inference_steps=1", "seed=5", "format=.png"]


@pytest.fixture
def settings(checkpoint, tmp_path):
    sources = [f"{name}={place}" for name, place in places(checkpoint).items()]
    return [*sources, *SMALL, f"output={tmp_path / 'out'}"]


@pytest.fixture
def continue_image(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return runpy.run_path(str(EXAMPLES / "image_to_video.py"), run_name="image_to_video")["main"]


def test_two_runs_at_once_save_two_videos(settings, capsys, monkeypatch, tmp_path):
    save, other = common.VideoSysEngine.save_video, []

    def meanwhile(self, *args, **more):
        if not other:
            other.append(1)
            assert main([PROMPT, *settings]) == 0
        return save(self, *args, **more)

    monkeypatch.setattr(common.VideoSysEngine, "save_video", meanwhile)
    assert main([PROMPT, *settings]) == 0
    paths = [line.split()[0] for line in capsys.readouterr().out.splitlines()[-2:]]
    assert len(set(paths)) == 2
    assert len(list((tmp_path / "out").iterdir())) == 4


def test_a_sidecar_that_cannot_be_written_costs_a_line_only(settings, capsys, monkeypatch):
    def full(path, text):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sidecar, "write_text", full)
    assert main(["quiet=true", PROMPT, "prompt=a cross", *settings]) == 0
    out, err = capsys.readouterr()
    assert [Path(line.split()[0]).exists() for line in out.splitlines()] == [True, True]
    assert err.count("No space left") == 2


def test_options_may_stand_between_settings(settings, capsys, continue_image):
    for run in (main, continue_image):
        assert run([*settings, "--config", str(EXAMPLES / "tiny.yaml"), PROMPT, *settings]) == 0
        assert "1 frames" in capsys.readouterr().out


def test_help_names_the_keys_of_the_script(capsys, continue_image):
    with pytest.raises(SystemExit):
        continue_image(["--help"])
    out = capsys.readouterr().out
    assert all(word in out for word in ("image=", "at=", "verbose=", "json_logs=", "OpenSoraConfig"))


@pytest.mark.parametrize("argument", ["image=", "at=middle", "prompts="])
def test_empty_keys_are_named(argument, settings, capsys, continue_image):
    assert continue_image([*settings, argument]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert argument in err
    assert len(err.splitlines()) == 1


def test_disk_space_is_checked_for_all_videos(settings, capsys, monkeypatch):
    counts = []
    monkeypatch.setattr(common, "check_writable", lambda *args, count, **more: counts.append(count))
    assert main([PROMPT, "prompt=a cross", *settings, "num_videos_per_prompt=2", "quiet=true"]) == 0
    assert counts == [4]


def test_quiet_leaves_the_config_unsaid(settings, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main([PROMPT, *settings, "quiet=true"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_a_plot_without_matplotlib_is_refused_before_a_video_is_made(settings, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(plots, "has_matplotlib", lambda: False)
    assert main([PROMPT, *settings, "plot=true"]) == 2
    assert "plots need matplotlib: pip install -e " in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_log_can_be_detailed_and_json(settings, capsys):
    assert main([PROMPT, *settings, "verbose=true", "json_logs=true"]) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("{")]
    assert "debug" in {json.loads(line)["level"] for line in lines}
    assert main([PROMPT, *settings, "verbose=true", "quiet=true"]) == 2
    assert "cannot both be true" in capsys.readouterr().err


def test_a_byte_order_mark_on_the_command_line_is_no_part_of_a_prompt(tmp_path):
    (tmp_path / "more.csv").write_text("id,prompt\n1,a dog\n", encoding="utf-8-sig")
    settings = ["prompt=\ufeffa cat", f"prompts={tmp_path / 'more.csv'}", "seed=3"]
    assert common.split(settings)[1:] == (["a cat", "a dog"], ["seed=3"])
    with pytest.raises(ValueError, match=r"prompts=.*none\.csv: cannot be read as prompts"):
        common.split([f"prompts={tmp_path / 'none.csv'}"])
