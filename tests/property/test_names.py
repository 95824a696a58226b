"""File names from prompts: 10,000 random ones stay inside the folder, differ, and fit every file system."""

from __future__ import annotations

import random
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from videosys.utils.names import reserved_path, slug, unique_path, video_name

AWKWARD = [
    "", " ", ".", "..", "/", "../../etc/passwd", "/absolute", "C:\\x", "con", "NUL", "com1.txt", "-rf",
    "~", "$HOME",
    "a\0b", "a\nb", "a\rb", "\ud800", "\u202e", "é", "e\u0301", "É", "ﬁ", "İ", "ß", "猫", "😀",
    "👨\u200d👩", "%2e",
    "*", "?", "|", "a" * 10_000, "猫" * 10_000, "\u0301" * 500, "A", "a", "a ", " a", "A ", "a.", "a-", "$",
]  # fmt: skip
ALPHABETS = [
    "aA bB.-_/\\", "éèüßøñç ÉÜ", "猫犬視頻の動画ひらカタ한국어", "😀🎬🚀👩\u200d\u2764\ufe0f",
    "\0\n\t\r\x7f\u202e\ud800\udfff",
]  # fmt: skip


def random_prompts(count: int) -> set[str]:
    source = random.Random(0)
    prompts = set(AWKWARD)
    while len(prompts) < count:
        alphabet = source.choice(ALPHABETS) if source.random() < 0.7 else [chr(source.randrange(0x110000))]
        prompts.add("".join(source.choices(alphabet, k=source.randrange(1, 120))))
    return prompts


def assert_safe(name: str) -> None:
    assert re.fullmatch(r"[a-z0-9][a-z0-9-]*\.mp4", name)
    assert len(name.encode()) <= 200
    assert not re.fullmatch(r"(con|prn|aux|nul|com\d|lpt\d)", name.split(".")[0])


def test_ten_thousand_prompts(tmp_path):
    names = {video_name(prompt, seed=42) for prompt in random_prompts(10_000)}
    assert len(names) == 10_000
    for name in names:
        assert_safe(name)
        assert (tmp_path / name).resolve().parent == tmp_path.resolve()


def test_awkward_names_can_be_made(tmp_path):
    for prompt in AWKWARD:
        with open(tmp_path / video_name(prompt, 0), "x"):
            pass
    assert len(list(tmp_path.iterdir())) == len(AWKWARD)


@given(prompt=st.text(), seed=st.integers(0, 2**63 - 1), index=st.integers(0, 999))
def test_any_text_any_seed(prompt, seed, index):
    name = video_name(prompt, seed, index)
    assert_safe(name)
    assert name == video_name(prompt, seed, index)


@given(st.lists(st.tuples(st.sampled_from(AWKWARD), st.integers(0, 30), st.integers(0, 30)), unique=True))
def test_prompt_seed_and_index_make_the_name(requests):
    assert len({video_name(*request) for request in requests}) == len(requests)


def test_names_read_well():
    assert (
        video_name("A Red Circle, moving!", 42)
        == "a-red-circle-moving-" + video_name("A Red Circle, moving!", 42)[20:]
    )
    assert slug("Élan  vital – déjà-vu 2") == "elan-vital-deja-vu-2"
    assert video_name("猫", 7, 2, ".gif").startswith("video-")
    assert video_name("猫", 7, 2, ".gif").endswith("-s7-2.gif")
    assert "." not in video_name("x", 1, suffix="")


@pytest.mark.parametrize("suffix", ["mp4", ".", "/x", ".mp4/..", ".MP4", ". mp4"])
def test_odd_suffixes_are_refused(suffix):
    with pytest.raises(ValueError, match="suffix"):
        video_name("x", 1, suffix=suffix)


def test_unique_path_takes_a_free_name(tmp_path):
    assert unique_path(tmp_path, "a.mp4") == tmp_path / "a.mp4"
    (tmp_path / "a.mp4").touch()
    assert unique_path(tmp_path, "a.mp4") == tmp_path / "a_2.mp4"
    (tmp_path / "a_2.mp4").touch()
    assert unique_path(tmp_path, "a.mp4") == tmp_path / "a_3.mp4"
    assert unique_path(tmp_path, "a.mp4", overwrite=True) == tmp_path / "a.mp4"
    assert unique_path(tmp_path / "new", "a") == tmp_path / "new" / "a"


@pytest.mark.parametrize("name", ["../a.mp4", "a/b.mp4", "/a.mp4", "..", ".", ""])
def test_unique_path_stays_in_its_folder(tmp_path, name):
    with pytest.raises(ValueError, match="must be a plain name"):
        unique_path(Path(tmp_path), name)


def test_a_leftover_sidecar_keeps_its_name(tmp_path):
    (tmp_path / "a.mp4.json").write_text("{}")
    assert unique_path(tmp_path, "a.mp4") == tmp_path / "a_2.mp4"
    with reserved_path(tmp_path, "a.mp4") as path:
        assert path == tmp_path / "a_2.mp4"


@pytest.mark.parametrize("suffix", [".mp4", ""])
def test_a_reserved_name_is_nobody_elses(tmp_path, suffix):
    with reserved_path(tmp_path / "new", f"a{suffix}") as first:
        with reserved_path(tmp_path / "new", f"a{suffix}") as second:
            assert first == tmp_path / "new" / f"a{suffix}"
            assert second == tmp_path / "new" / f"a_2{suffix}"
    assert list((tmp_path / "new").iterdir()) == []


def test_many_threads_get_many_names(tmp_path):
    def take(_):
        with reserved_path(tmp_path, "a.mp4") as path:
            path.write_text("x")
            return path

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(take, range(40)))) == 40
    assert len(list(tmp_path.iterdir())) == 40


@pytest.mark.parametrize("suffix", [".mp4", ""])
def test_a_reservation_ends_with_an_error_and_what_was_saved_stays(tmp_path, suffix):
    with pytest.raises(KeyboardInterrupt):
        with reserved_path(tmp_path, f"a{suffix}"):
            raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
    with reserved_path(tmp_path, f"a{suffix}") as path:
        (path if suffix else path / "frame").write_text("x")
    assert path.exists()
    with reserved_path(tmp_path, f"a{suffix}", overwrite=True) as again:
        assert again == path
    assert path.exists()


def test_where_nothing_can_be_reserved_saving_has_the_word(tmp_path):
    (tmp_path / "file").touch()
    with reserved_path(tmp_path / "file", "a.mp4") as path:
        assert path == tmp_path / "file" / "a.mp4"
