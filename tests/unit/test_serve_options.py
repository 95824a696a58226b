"""The options of `videosys serve` and `videosys ui`, and settings of a config that a service does not use."""

from __future__ import annotations

import socket

import pytest

pytest.importorskip("fastapi", reason="the extra 'serve' is not installed: pip install -e '.[serve]'")

from tests.service import CONFIG
from videosys import cli, load_family_config
from videosys.serve.__main__ import main
from videosys.serve.requests import Checker
from videosys.serve.server import Options, listening, warn_of_fixed
from videosys.serve.settings import Limits
from videosys.serve.worker import config_of


@pytest.mark.parametrize("name", ["queue", "prompt", "pixels", "frames", "steps", "per-minute", "body"])
@pytest.mark.parametrize("value", [0, -1])
def test_limits_below_one_are_named_by_their_option(capsys, name, value):
    assert main(["--config", "x.yaml", f"--max-{name}={value}"]) == 2
    assert capsys.readouterr().err == f"error: --max-{name} is {value}; it must be 1 or more\n"


@pytest.mark.parametrize("command", ["serve", "ui"])
def test_help_names_its_command(capsys, command):
    with pytest.raises(SystemExit):
        cli.command(command, [])(["--help"])
    assert capsys.readouterr().out.startswith(f"usage: videosys {command} ")


def test_a_port_in_use_is_one_error(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ValueError, match=rf"--host 127\.0\.0\.1 --port {port}: Address already in use$"):
            with listening(Options("127.0.0.1", port, tmp_path)):
                pass


def test_settings_for_several_videos_have_no_effect_and_are_told(caplog):
    options = {"config": CONFIG, "model": None, "overrides": ["num_videos_per_prompt=3", "batch_size=2"]}
    config = config_of(options)
    assert (config.num_videos_per_prompt, config.batch_size) == (1, 1)
    assert Checker(load_family_config(*options.values()), Limits()).config == config
    warn_of_fixed(config)
    assert caplog.records == []
    warn_of_fixed(load_family_config(*options.values()))
    assert [record.message.split()[0] for record in caplog.records] == [
        "batch_size=2",
        "num_videos_per_prompt=3",
    ]
