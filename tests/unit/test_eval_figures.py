"""The paper's figures from the user's own data, and the short report of a documentation page."""

from __future__ import annotations

import csv
import json

import pytest

from tests.evaluation import figures, page, short

pytest.importorskip("matplotlib", reason="matplotlib is not installed: pip install -e '.[plot]'")

COMPUTED = (0, 1, 4, 5, 9)
STEPS = [
    {"step": step, "accumulated": None if step == 0 else 0.02 * step, "computed": step in COMPUTED}
    for step in range(10)
]
RECORD = {"prompt": "a cup", "threshold": 0.1, "steps": STEPS}


def lines_of(record) -> dict:
    axes = figures.steps_axes(record)
    return {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in axes.get_lines()}


def test_a_run_is_drawn_with_its_threshold_beside_a_uniform_schedule(tmp_path, capsys):
    lines = lines_of(RECORD)
    assert lines["computed"][0] == list(COMPUTED)
    assert lines["uniform, as many"][0] == [0, 2, 4, 7, 9]
    assert lines["threshold 0.1"][1] == [0.1, 0.1]
    assert lines["accumulated change, rescaled"][0] == list(range(1, 10))
    path = tmp_path / "a.mp4.json"
    path.write_text(json.dumps(RECORD))
    assert figures.main(["steps", str(path), "--output", str(tmp_path / "new")]) == 0
    assert (tmp_path / "new" / "a.mp4.steps.png").read_bytes().startswith(b"\x89PNG")
    assert capsys.readouterr().out.strip().endswith("a.mp4.steps.png")


def test_a_schedule_has_no_threshold_to_draw():
    steps = [{"step": step, "accumulated": None, "computed": step % 2 == 0} for step in range(4)]
    assert list(lines_of({"steps": steps, "threshold": None})) == ["computed", "uniform, as many"]


@pytest.mark.parametrize(("steps", "count"), [(30, 10), (10, 2), (7, 7), (5, 1)])
def test_a_uniform_schedule_has_as_many_steps_with_the_first_and_the_last(steps, count):
    made = figures.uniform(steps, count)
    assert len(made) == count
    assert made[0] == 0
    assert made[-1] == (steps - 1 if count > 1 else 0)


def test_a_figure_that_is_not_there_is_one_error(capsys):
    for words in ([], ["four"]):
        assert figures.main(words) == 2
        assert "figures: quality, steps, changes" in capsys.readouterr().err
    assert figures.main(["--help"]) == 0
    assert "quality against latency" in capsys.readouterr().out


@pytest.mark.parametrize("content", ["[]", "{}", '{"steps": []}', "{"])
def test_other_files_are_one_error(tmp_path, capsys, content):
    path = tmp_path / "x.json"
    path.write_text(content)
    assert figures.main(["steps", str(path)]) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_a_page_gets_one_table_and_its_plots_and_csv_files_all_columns(tmp_path):
    target = tmp_path / "docs" / "evaluation.md"
    target.parent.mkdir()
    target.write_text(f"# Title\n\n{page.BEGIN}\n{page.END}\n")
    for name in ("m_psnr_latency.svg", "m_frames.png"):
        (tmp_path / name).write_text("x")
    head = ("method", "computed", "TFLOPs", "speed-up", "latency s", "PSNR dB to base")
    blocks = [
        page.Text("words"),
        page.Heading("m"),
        page.Table(
            head, [["base", "2 of 2", "1", "1.00", "3", "-"], ["fast", "1 of 2", "0.5", "2", "1", "30"]]
        ),
        page.Picture("m_psnr_latency.svg", "plot"),
        page.Picture("m_frames.png", "frames"),
        page.Table(("method", "PFLOPs"), [["paper", "3"]]),
        page.Heading("Published sizes"),
        page.Table(("size", "method", "PFLOPs"), [["large", "base", "3"]]),
    ]
    short.fill(target, blocks, tmp_path)
    text = target.read_text()
    assert "| m | fast | 1 of 2 | 0.5 | 2 | 30 |" in text
    assert "images/m_psnr_latency.svg" in text
    assert "frames" not in text
    rows = list(csv.DictReader((target.parent / "evaluation_tiny.csv").open()))
    assert [row["latency s"] for row in rows] == ["3", "1"]
    sizes = (target.parent / "evaluation_sizes.csv").read_text()
    assert sizes.splitlines()[1] == "Published sizes,large,base,3"
