"""The command `videosys`: every word leads somewhere, and nothing is imported before it is needed."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest

from tests.house.source import ROOT
from videosys import cli
from videosys.utils.installed import install_command


def test_without_a_command_it_says_which_there_are(capsys):
    for argv in ([], ["--help"], ["help"]):
        assert cli.main(argv) == 0
        out = capsys.readouterr().out
        assert all(f"\n  {name} " in out for name in cli.COMMANDS)


def test_a_word_that_is_no_command_is_one_error(capsys):
    assert cli.main(["samples", "x"]) == 2
    assert capsys.readouterr().err.startswith(
        "error: unknown command 'samples' (did you mean 'sample'?); commands: "
    )


def test_every_command_is_there():
    assert {*cli.MODULES, "sample"} == {*cli.COMMANDS}
    for module in cli.MODULES.values():
        assert importlib.util.find_spec(module) is not None


@pytest.mark.parametrize("name", [name for name in cli.COMMANDS if name not in ("serve", "ui")])
def test_commands_answer_to_help(name, capsys):
    with pytest.raises(SystemExit) as info:
        cli.main([name, "--help"])
    assert info.value.code == 0
    assert "usage:" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "model", "rest"),
    [
        ([], "opensora", []),
        (["seed=3"], "opensora", ["seed=3"]),
        (["--model", "latte", "seed=3"], "latte", ["seed=3"]),
        (["seed=3", "--model=latte"], "latte", ["seed=3"]),
        (
            ["--config", "x/open_sora_plan/tiny.yaml"],
            "open_sora_plan",
            ["--config", "x/open_sora_plan/tiny.yaml"],
        ),
        (["--config=x/latte/tiny.yaml"], "latte", ["--config=x/latte/tiny.yaml"]),
        (["prompt=a latte on a table"], "opensora", ["prompt=a latte on a table"]),
    ],
)
def test_the_model_of_a_sample_is_named_or_that_of_the_config(arguments, model, rest):
    assert cli.take_model(arguments) == model
    assert arguments == rest


def test_a_model_that_is_not_there_is_one_error(capsys):
    for argv in (["sample", "--model", "late"], ["sample", "--model"], ["sample", "--model="]):
        assert cli.main(argv) == 2
        assert capsys.readouterr().err.startswith("error: unknown model ")


def test_what_is_not_installed_is_one_error(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(cli, "CHECKOUT", tmp_path)
    monkeypatch.setattr(cli, "EXAMPLES", tmp_path / "examples")
    for name in ("compare", "sample"):
        assert cli.main([name]) == 2
        assert capsys.readouterr().err.startswith(f"error: {name} needs ")


def test_the_service_says_which_extra_it_needs(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "fastapi", None)
    for name in [name for name in sys.modules if name.startswith("videosys.serve.")]:
        monkeypatch.delitem(sys.modules, name)
    assert cli.main(["serve", "--config", "x.yaml"]) == 2
    assert f"the service needs an extra: {install_command('serve')} (" in capsys.readouterr().err


START = """
import sys
from videosys.cli import main
main(["--help"])
print(sorted({"torch", "numpy", "diffusers", "fastapi"} & sys.modules.keys()))
"""


def test_help_imports_no_heavy_package():
    done = subprocess.run([sys.executable, "-c", START], capture_output=True, text=True, cwd=ROOT)
    assert (done.stdout.splitlines()[-1], done.stderr) == ("[]", "")
