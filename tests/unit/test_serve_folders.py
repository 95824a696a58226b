"""What the service and `render` do in folders that hold files of the user, and with lists of prompts."""

from __future__ import annotations

import pytest

pytest.importorskip("sqlalchemy", reason="the extra 'serve' is not installed: pip install -e '.[serve]'")

from videosys.serve.files import remove_leftovers
from videosys.serve.lock import own
from videosys.serve.render import main

ID = "video_" + "0123456789abcdef" * 2


def test_only_files_of_unfinished_attempts_are_removed(tmp_path):
    kept = ["holiday.mp4", f"{ID}-1.mp4", f"{ID}-1.json", f"{ID}.mp4", "video_1-1.mp4", f"a{ID}-2.mp4"]
    for name in (*kept, f"{ID}-2.mp4", f"{ID}-3.json"):
        (tmp_path / name).write_text("precious")
    remove_leftovers(tmp_path, {f"{ID}-1"})
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(kept)


def test_a_file_called_lock_stays_as_it_is(tmp_path):
    (tmp_path / "lock").write_text("notes")
    with own(tmp_path, "--data"), pytest.raises(ValueError, match="in use by another process"):
        with own(tmp_path, "--data"):
            pass
    assert (tmp_path / "lock").read_text() == "notes"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", b'{"a": 1}', "must hold a JSON list"),
        ("a.txt", b"\x89PNG\r\n", "a PNG image"),
        ("a.txt", b"\n", "has no prompts"),
    ],
)
def test_render_reads_lists_as_all_commands_do(tmp_path, capsys, name, content, message):
    (tmp_path / name).write_bytes(content)
    arguments = ["--config", "examples/opensora/tiny.yaml", "--out", str(tmp_path / "out")]
    assert main([*arguments, "--prompts", str(tmp_path / name)]) == 2
    assert message in capsys.readouterr().err
