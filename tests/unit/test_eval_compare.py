"""Folders of videos compared: pairs, means, and clear words for what does not fit."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests.evaluation import compare, metrics_script, write
from videosys import save_video


def folders(tmp_path, **videos):
    """Two folders with videos of these sizes: (reference, generated), each (frames, height, width, value)."""
    for name, pair in videos.items():
        for folder, size in zip(("gt", "made"), pair):
            if size is not None:
                (tmp_path / folder).mkdir(exist_ok=True)
                write(tmp_path / folder / f"{name}.mp4", *size)
    return [
        "--gt_video_dir",
        str(tmp_path / "gt"),
        "--generated_video_dir",
        str(tmp_path / "made"),
        "--quiet",
    ]


SIZE = (3, 24, 32)


def test_two_folders_are_compared_as_the_papers_command_does(tmp_path, capsys):
    arguments = folders(tmp_path, a=((*SIZE, 100), (*SIZE, 100)), b=((*SIZE, 100), (*SIZE, 110)))
    assert metrics_script.main(arguments) == 0
    output = capsys.readouterr()
    made = json.loads((tmp_path / "made" / "metrics.json").read_text())
    assert [row["name"] for row in made["videos"]] == ["a.mp4", "b.mp4"]
    assert made["videos"][0]["psnr"] == 100
    assert made["videos"][0]["ssim"] == pytest.approx(1)
    assert made["videos"][1]["psnr_per_frame"] == pytest.approx([28.13] * 3, abs=0.01)
    assert made["mean"]["psnr"]["per_video"] == pytest.approx(64.07, abs=0.01)
    assert "lpips" not in made["mean"]
    assert "skipping LPIPS" in output.err
    assert "psnr dB" in output.out
    assert "public way" in output.out


def test_folders_of_frames_are_videos_too(tmp_path, capsys):
    arguments = folders(tmp_path, a=((*SIZE, 100), (*SIZE, 100)))
    for name, value in (("gt", 100), ("made", 110)):
        save_video(np.full((*SIZE, 3), value, np.uint8), tmp_path / name / "b", fps=8)
    assert metrics_script.main(arguments) == 0
    made = json.loads((tmp_path / "made" / "metrics.json").read_text())
    assert [row["name"] for row in made["videos"]] == ["a.mp4", "b"]
    assert made["videos"][1]["frames"] == 3
    assert made["videos"][1]["psnr_per_frame"] == pytest.approx([28.13] * 3, abs=0.01)
    (tmp_path / "made" / "b" / "frame_00001.png").unlink()
    assert metrics_script.main(arguments) == 2
    assert "b: has frame 0 and frame 2, but none in between" in capsys.readouterr().err


def test_the_public_mean_weighs_a_short_last_batch_more():
    rows = [{"psnr": value} for value in (10.0, 20.0, 30.0, 40.0, 50.0)]
    made = compare.summary(rows, ["psnr"], public_batch=2)["psnr"]
    assert made["per_video"] == 30
    assert made["public"] == pytest.approx((15 + 35 + 50) / 3)
    assert (made["least"], made["most"]) == (10, 50)
    assert made["error"] == pytest.approx((250 / 5) ** 0.5)
    assert compare.summary(rows[:4], ["psnr"], public_batch=2)["psnr"]["public"] == 25
    assert compare.summary(rows[:1], ["psnr"])["psnr"]["error"] is None


@pytest.mark.parametrize(
    ("videos", "message"),
    [
        (
            {"a": (SIZE, SIZE), "b": (SIZE, (4, 24, 32)), "c": (SIZE, (3, 16, 32))},
            "2 of 3 pairs cannot be compared: b.mp4: 4 frames of 24 x 32 against 3 frames of 24 x 32; "
            "c.mp4: 3 frames of 16 x 32 against 3 frames of 24 x 32",
        ),
        ({"a": (SIZE, SIZE), "b": (SIZE, None)}, "1 videos of {gt} are missing in {made}: b.mp4"),
        ({"a": (SIZE, SIZE), "b": (None, SIZE)}, "1 videos of {made} are missing in {gt}: b.mp4"),
        ({"a": (SIZE, None)}, "{made}: no such folder"),
    ],
)
def test_what_cannot_be_compared_is_listed(tmp_path, capsys, videos, message):
    assert metrics_script.main(folders(tmp_path, **videos)) == 2
    expected = message.format(gt=tmp_path / "gt", made=tmp_path / "made")
    assert capsys.readouterr().err.splitlines()[-1] == f"error: {expected}"
    assert not (tmp_path / "made" / "metrics.json").exists()


def test_every_video_is_read_once_and_none_is_measured_after_one_that_does_not_fit(tmp_path, monkeypatch):
    folders(tmp_path, a=(SIZE, SIZE), b=(SIZE, (4, 24, 32)), c=(SIZE, SIZE), d=(SIZE, (2, 24, 32)))
    read, measured = [], []
    original = compare.read_video
    monkeypatch.setattr(compare, "read_video", lambda path: read.append(path) or original(path))

    def metric(video, reference):
        measured.append(len(video))
        return (video == reference).flatten(1).double().mean(dim=1)

    pairs = compare.find_pairs(tmp_path / "gt", tmp_path / "made")
    with pytest.raises(ValueError, match=r"2 of 4 pairs cannot be compared: b.mp4: .*; d.mp4: 2 frames"):
        compare.measure(pairs, {"same": metric}, quiet=True)
    assert measured == [3]
    assert len(read) == len({*read}) == 8
    (row,) = compare.measure(pairs[2:3], {"same": metric}, quiet=True)
    assert row == {"name": "c.mp4", "frames": 3, "same": 1.0, "same_per_frame": [1.0] * 3}


def test_a_damaged_video_is_named(tmp_path, capsys):
    arguments = folders(tmp_path, a=(SIZE, SIZE))
    (tmp_path / "made" / "a.mp4").write_bytes(b"no video")
    assert metrics_script.main(arguments) == 2
    assert "1 of 1 pairs cannot be compared" in (said := capsys.readouterr().err)
    assert "a.mp4: cannot be read as a video" in said


def test_lpips_asked_for_needs_its_weights(tmp_path, capsys):
    arguments = folders(tmp_path, a=(SIZE, SIZE))
    assert metrics_script.main([*arguments, "--metrics", "lpips", "--alexnet-weights", "none.pth"]) == 2
    assert "LPIPS needs the weights of AlexNet, and none.pth is not a file" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--batch-size", "--public-batch-size"])
def test_counts_must_be_positive(tmp_path, capsys, option):
    assert metrics_script.main([*folders(tmp_path, a=(SIZE, SIZE)), option, "0"]) == 2
    assert f"{option} is 0; it must be 1 or more" in capsys.readouterr().err


def test_a_device_that_is_not_here_is_refused_at_once(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(compare.torch.cuda, "device_count", lambda: 0)
    arguments = folders(tmp_path, a=(SIZE, SIZE))
    for device in ("cuda", "cuda:7", "gpu", "meta"):
        assert metrics_script.main([*arguments, "--device", device]) == 2
        assert f"--device is '{device}'; allowed here: auto, cpu" in capsys.readouterr().err
    assert compare.choose_device("auto") == compare.choose_device("cpu") == "cpu"
    monkeypatch.setattr(compare.torch.cuda, "device_count", lambda: 2)
    assert compare.choose_device("auto") == "cuda"
    assert compare.choose_device("cuda:1") == "cuda:1"
    with pytest.raises(ValueError, match=r"cuda:2.*allowed here: auto, cpu, cuda, cuda:0, cuda:1"):
        compare.choose_device("cuda:2")


def test_videos_still_being_written_are_no_videos(tmp_path):
    folders(tmp_path, a=(SIZE, SIZE))
    write(tmp_path / "gt" / ".partial-0.mp4")
    assert compare.videos(tmp_path / "gt") == ["a.mp4"]
