"""How commands end: one line for a mistake, nothing but a status after Ctrl-C."""

from __future__ import annotations

import pytest
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from videosys import (
    CommandParser,
    OpenSoraConfig,
    config_to_dict,
    exit_status,
    load_config,
    run_command,
)


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


def test_a_command_runs_on_its_arguments_in_any_order(capsys):
    parser, seen = CommandParser(prog="make"), []
    parser.add_argument("--out", required=True)
    parser.add_argument("settings", nargs="*")

    def run(args):
        seen.append((args.out, args.settings))
        raise ValueError("no room")

    assert run_command(parser, run, ["a=1", "--out", "x", "b=2"]) == 2
    assert seen == [("x", ["a=1", "b=2"])]
    assert capsys.readouterr().err == "error: no room\n"


@pytest.mark.parametrize(
    ("argv", "message"), [(["--bogus"], "--bogus"), (["--out"], "--out: expected one argument")]
)
def test_a_wrong_argument_is_one_line(argv, message, capsys):
    parser = CommandParser(prog="make")
    parser.add_argument("--out")
    with pytest.raises(SystemExit) as caught:
        run_command(parser, lambda args: 0, argv)
    err = capsys.readouterr().err
    assert (caught.value.code, err.count("\n")) == (2, 1)
    assert err.startswith("error: ")
    assert message in err
    assert err.endswith("; see --help\n")


def test_settings_need_no_file():
    config = OpenSoraConfig(seed=3, fps=12.0)
    assert load_config(OpenSoraConfig, config_to_dict(config)) == config
    assert load_config(OpenSoraConfig, config_to_dict(config), ["seed=4"]).seed == 4
    assert load_config(OpenSoraConfig, {}) == OpenSoraConfig()
    with pytest.raises(ValueError, match=r"^sed: unknown key \(did you mean 'seed'\?\)"):
        load_config(OpenSoraConfig, {"sed": 4})


@pytest.fixture
def torchrun(monkeypatch, tmp_path):
    """As torchrun starts a process; the path is the file whose text it prints at its end."""
    slept = []
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "error.json"))
    monkeypatch.setattr("time.sleep", slept.append)
    return tmp_path / "error.json", slept


@pytest.mark.parametrize("arguments", [[], ["--no-such-option"]])
@pytest.mark.parametrize("rank", ["0", "1"])
def test_under_torchrun_the_first_process_has_torchrun_print_the_line(
    torchrun, monkeypatch, capsys, rank, arguments
):
    path, slept = torchrun
    monkeypatch.setenv("RANK", rank)
    status = None
    try:
        status = run_command(CommandParser(), raising_with_argument, arguments)
    except SystemExit as error:
        status = error.code
    assert status == 2
    failure = ProcessFailure(local_rank=0, pid=1, exitcode=2, error_file=str(path))
    printed = str(ChildFailedError("command", {int(rank): failure})).splitlines()
    assert "error: " in printed[-2]
    assert ("sp is 3" if not arguments else "--no-such-option") in printed[-2]
    assert set(printed[-1]) == {"="}
    assert capsys.readouterr() == ("", "")
    assert len(slept) == int(rank)  # the others wait until torchrun ends them


def raising_with_argument(arguments):
    raise ValueError("sp is 3;\n it must be 1 or 2")


def test_a_line_that_torchrun_cannot_be_given_is_printed(monkeypatch, capsys):
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", "no/such/folder/error.json")
    assert exit_status(raising(ValueError("a")), "") == 2
    assert capsys.readouterr().err == "error: a\n"
