"""How commands end: one line for a mistake, nothing but a status after Ctrl-C."""

from __future__ import annotations

import pytest

from videosys import OpenSoraConfig, config_to_dict, exit_status, load_config


def raising(error):
    def run():
        raise error

    return run


@pytest.mark.parametrize(
    ("run", "options", "status", "text"),
    [
        (lambda: 0, ("stopped",), 0, ""),
        (lambda: 1, ("stopped",), 1, ""),
        (raising(ValueError("a\n  b")), ("stopped",), 2, "error: a b\n"),
        (
            raising(FileNotFoundError(2, "gone")),
            ("stopped", (ValueError, OSError)),
            2,
            "error: [Errno 2] gone\n",
        ),
        (raising(KeyboardInterrupt()), ("stopped",), 130, "stopped\n"),
        (raising(KeyboardInterrupt()), ("",), 130, ""),
    ],
)
def test_a_command_ends_with_a_status_and_one_line(run, options, status, text, capsys):
    assert exit_status(run, *options) == status
    assert capsys.readouterr().err == text


@pytest.mark.parametrize("error", [OSError("disk"), TypeError("bug"), SystemExit(3)])
def test_an_error_that_is_no_mistake_of_the_user_is_not_hidden(error):
    with pytest.raises(type(error)):
        exit_status(raising(error), "stopped")


def test_settings_need_no_file():
    config = OpenSoraConfig(seed=3, fps=12.0)
    assert load_config(OpenSoraConfig, config_to_dict(config)) == config
    assert load_config(OpenSoraConfig, config_to_dict(config), ["seed=4"]).seed == 4
    assert load_config(OpenSoraConfig, {}) == OpenSoraConfig()
    with pytest.raises(ValueError, match=r"^sed: unknown key \(did you mean 'seed'\?\)"):
        load_config(OpenSoraConfig, {"sed": 4})
