"""The manifest survives being cut off at any moment; ranks share the work without meeting."""

from __future__ import annotations

import json

import pytest

from tests.evaluation import manifest, ranks


def put(folder, name, rank_file=manifest.NAME, **more):
    manifest.partial(folder, name).write_bytes(b"video")
    manifest.complete(folder, rank_file, {"file": name, **more})


def test_a_completed_video_has_its_name_and_its_line(tmp_path):
    put(tmp_path, "a.mp4", seed=3)
    assert manifest.finished(tmp_path) == {"a.mp4": {"file": "a.mp4", "seed": 3}}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4", "manifest.jsonl"]


def test_a_run_killed_before_the_line_leaves_nothing_finished(tmp_path):
    manifest.partial(tmp_path, "a.mp4").write_bytes(b"video")
    assert manifest.finished(tmp_path) == {}


def test_a_run_killed_between_the_line_and_the_name_is_completed(tmp_path):
    manifest.partial(tmp_path, "a.mp4").write_bytes(b"video")
    manifest.append(tmp_path / manifest.NAME, {"file": "a.mp4"})
    assert list(manifest.finished(tmp_path)) == ["a.mp4"]
    assert (tmp_path / "a.mp4").read_bytes() == b"video"


def test_a_rank_that_completes_what_another_is_completing_does_no_harm(tmp_path):
    manifest.partial(tmp_path, "a.mp4").write_bytes(b"video")
    manifest.reveal(tmp_path, "a.mp4")
    manifest.reveal(tmp_path, "a.mp4")
    with pytest.raises(FileNotFoundError):
        manifest.reveal(tmp_path, "b.mp4")


def test_a_line_cut_off_is_passed_over_and_the_next_begins_anew(tmp_path, capsys):
    put(tmp_path, "a.mp4")
    with (tmp_path / manifest.NAME).open("a") as file:
        file.write('{"file": "b.mp4", "see')
    put(tmp_path, "c.mp4")
    assert list(manifest.finished(tmp_path)) == ["a.mp4", "c.mp4"]
    assert "manifest.jsonl:2: ignoring an incomplete record" in capsys.readouterr().err
    lines = (tmp_path / manifest.NAME).read_text().splitlines()
    assert [json.loads(line)["file"] for line in (lines[0], lines[2])] == ["a.mp4", "c.mp4"]


def test_a_line_whose_video_was_removed_counts_as_not_made(tmp_path):
    put(tmp_path, "a.mp4")
    (tmp_path / "a.mp4").unlink()
    assert manifest.finished(tmp_path) == {}


def test_any_prompt_can_be_a_record(tmp_path):
    prompt = 'lone \ud800 \u2028 newline\n "quoted" 猫'
    put(tmp_path, "a.mp4", prompt=prompt)
    assert manifest.finished(tmp_path)["a.mp4"]["prompt"] == prompt


def test_long_names_have_short_hidden_ones(tmp_path):
    name = "x" * 246 + "-0.mp4"
    put(tmp_path, name)
    assert (tmp_path / name).is_file()


def test_files_of_ranks_are_read_together(tmp_path):
    for rank in range(3):
        put(tmp_path, f"{rank}.mp4", manifest.rank_name(rank, 3))
    assert len(list(tmp_path.glob("manifest.*.jsonl"))) == 3
    assert sorted(manifest.finished(tmp_path)) == ["0.mp4", "1.mp4", "2.mp4"]


def test_ranks_share_a_list_without_rest(tmp_path):
    items = list(range(11))
    shares = [ranks.Ranks(rank, 4).own(items) for rank in range(4)]
    assert sorted(item for share in shares for item in share) == items
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert ranks.Ranks(1, 4, together=True).own(items) == items


def test_the_variables_of_torchrun_are_taken_unless_the_ranks_work_together():
    given = {"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "MASTER_ADDR": "here", "HOME": "x"}
    environment = dict(given)
    assert ranks.current(False, environment) == ranks.Ranks(3, 8, 1)
    assert environment == {"HOME": "x"}
    environment = dict(given)
    assert ranks.current(True, environment) == ranks.Ranks(3, 8, 1, together=True)
    assert environment == given
    assert ranks.current(False, {}) == ranks.Ranks()


@pytest.mark.parametrize("given", [{"RANK": "2", "WORLD_SIZE": "2"}, {"RANK": "x"}])
def test_wrong_variables_are_refused(given):
    with pytest.raises(ValueError, match="RANK"):
        ranks.current(False, given)
