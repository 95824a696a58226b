"""Prompts from a file or an installed vbench, and the names of the videos made from them."""

from __future__ import annotations

import re
import tempfile
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from vbench_found import LIST, find_list

from videosys import read_prompts, video_name

HERE = Path(__file__).resolve().parent
OWN, OWN_TINY = HERE / "prompts.txt", HERE / "prompts_tiny.txt"
VBENCH, OURS = "vbench", "own"  # words for --prompts
LONGEST = 220  # bytes of a prompt in a file name; with index, suffix and a temporary mark it stays below 255
NAMINGS = ("auto", VBENCH, "slug")

# What Windows, macOS or a shell would not take, or a player would read as a pattern.
_UNSAFE = re.compile(r'[/\\:*?"<>|\x00-\x1f\x7f]')
_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


@dataclass(frozen=True)
class PromptList:
    """Prompts without repetition, where they are from, and whether VBench's scores need their names."""

    prompts: tuple[str, ...]
    origin: str
    is_vbench: bool = False


def load_prompts(source: str | None, tiny: bool = False, python: str | None = None) -> PromptList:
    """The prompts of a file: one a line, JSON such as VBench's, or CSV. ValueError where it has none.

    source: a path; `vbench` for the list of a vbench on this machine (of the interpreter `python`, if given);
    `own` for the few prompts beside this script; None for `vbench`, and with `tiny` for `own`, which then are
    prompts that a tiny model knows.
    """
    word = source or (OURS if tiny else VBENCH)
    if Path(word).is_file() or word not in (VBENCH, OURS):
        return listed(Path(word))
    if word == OURS:
        return listed(OWN_TINY if tiny else OWN)
    path = find_list(python)
    if path is None:
        raise ValueError(
            f"no vbench with a {LIST} is found{f' beside {python}' if python else ''}; allowed: "
            f"--prompts FILE (such as a {LIST}), --vbench-python of an environment that has vbench, "
            "--prompts own for 12 prompts of our own, which VBench cannot score, and --tiny for the tiny "
            "checkpoint"
        )
    return listed(path)


def listed(path: Path) -> PromptList:
    """The prompts of a file, each once."""
    file = read_prompts(path)
    return PromptList(tuple(dict.fromkeys(file.prompts)), str(path), file.is_vbench)


def file_name(prompt: str, index: int, seed: int, naming: str) -> str:
    """The name of a video: `{prompt}-{index}.mp4` for VBench, else like `a-circle-1f0c2a9be3d4-s42.mp4`."""
    return f"{prompt}-{index}.mp4" if naming == VBENCH else video_name(prompt, seed)


def choose_naming(naming: str, prompts: PromptList, root: Path) -> str:
    """`vbench` or `slug`; auto is vbench for VBench's list. ValueError for prompts that are not safe names.

    VBench has "a fantasy landscape" and "A fantasy landscape", which is wrong only where `root`, the folder
    of the videos, is on a file system that does not tell them apart.
    """
    convention = naming if naming != "auto" else VBENCH if prompts.is_vbench else "slug"
    wrong = list(unsafe(prompts.prompts, folds_case(root))) if convention == VBENCH else []
    if wrong:
        raise ValueError(
            f"{len(wrong)} prompts of {prompts.origin} are not safe file names, which VBench needs: "
            f"{'; '.join(wrong[:3])}; --names slug creates safe names, listed in manifest.jsonl"
        )
    return convention


def folds_case(folder: Path) -> bool:
    """Whether the file system takes capital and small letters for the same; the folder need not exist yet."""
    there = next(path for path in (folder, *folder.resolve().parents) if path.is_dir())
    with tempfile.NamedTemporaryFile(dir=there, prefix=".Probe") as file:
        path = Path(file.name)
        return path.with_name(path.name.swapcase()).exists()


def unsafe(prompts: Sequence[str], one_case: bool) -> Iterator[str]:
    """Prompts that cannot be file names, each with the reason. one_case: where A and a are the same."""
    seen: dict[str, str] = {}
    for prompt in prompts:
        key = unicodedata.normalize("NFC", prompt).casefold()
        reason = why_unsafe(prompt)
        if reason is None and one_case and key in seen:
            reason = f"on the file system it is the same as {seen[key][:60]!r}"
        seen.setdefault(key, prompt)
        if reason is not None:
            yield f"{prompt[:60]!r} ({reason})"


def why_unsafe(prompt: str) -> str | None:
    match = _UNSAFE.search(prompt)
    if match is not None:
        return f"has {match[0]!r}"
    if not prompt.isprintable():
        return "has an invisible character"
    if prompt.startswith((".", "-", "~", " ")):
        return f"begins with {prompt[0]!r}"
    if _DEVICES.fullmatch(prompt):
        return "is a device name"
    size = len(prompt.encode("utf-8", "surrogatepass"))
    return f"has {size} bytes; the limit is {LONGEST}" if size > LONGEST else None
