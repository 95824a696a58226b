"""Commands in forks of one process end as they would in an interpreter of their own."""

from __future__ import annotations

import pytest

from tests import warm


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("print('here')", 0),
        ("1 / 0", 1),
        ("1 +", 1),
        ("raise SystemExit(2)", 2),
        ("raise SystemExit", 0),
        ("raise SystemExit('no')", 1),
    ],
)
def test_the_status_is_that_of_the_code(code, status, tmp_path):
    assert warm.run(["-c", code], tmp_path).returncode == status


@pytest.mark.parametrize(
    ("code", "error"), [("raise SystemExit('no')", "no"), ("1 / 0", "ZeroDivisionError: division by zero")]
)
def test_errors_are_printed(code, error, tmp_path):
    done = warm.run(["-c", code], tmp_path)
    assert (done.stdout, done.stderr.splitlines()[-1]) == ("", error)


def test_the_package_is_imported_anew_and_files_are_found_first(tmp_path):
    (tmp_path / "mine.py").write_text("import sys\nprint('videosys' in sys.modules, sys.argv[1:])")
    for arguments in (["mine.py", "a"], ["-m", "mine", "a"]):
        done = warm.run(arguments, tmp_path)
        assert (done.stdout, done.stderr) == ("False ['a']\n", "")
    done = warm.run(["-c", "import mine, os; print(os.getcwd())"], tmp_path, search=(tmp_path,))
    assert done.stdout.splitlines() == ["False []", str(tmp_path)]


def test_a_command_that_does_not_end_is_stopped(tmp_path):
    assert warm.run(["-c", "import time; time.sleep(60)"], tmp_path, limit=1).returncode == -14
