"""Prompts from a file or an installed vbench, and the file names of their videos."""

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
VBENCH, OURS = "vbench", "own"  # special values of --prompts
LONGEST = 220  # bytes of a prompt in a file name; with index, suffix and temporary mark it stays below 255
NAMINGS = ("auto", VBENCH, "slug")

# Characters that Windows, macOS or a shell rejects, or that a player reads as a pattern.
_UNSAFE = re.compile(r'[/\\:*?"<>|\x00-\x1f\x7f]')
_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


@dataclass(frozen=True)
class PromptList:
    """Distinct prompts, their origin, and whether VBench needs them as file names."""

    prompts: tuple[str, ...]
    origin: str
    is_vbench: bool = False


def load_prompts(source: str | None, tiny: bool = False, python: str | None = None) -> PromptList:
    """Read prompts: one per line, JSON in VBench's format, or CSV. ValueError if there are none.

    source: a path; `vbench` for the list of a vbench on this machine (of the interpreter `python`, if given);
    `own` for the prompts next to this script (with `tiny`, those that a tiny model knows); None for `vbench`,
    or with `tiny` for `own`.
    """
    word = source or (OURS if tiny else VBENCH)
    if Path(word).is_file() or word not in (VBENCH, OURS):
        return listed(Path(word))
    if word == OURS:
        return listed(OWN_TINY if tiny else OWN)
    path = find_list(python)
    if path is None:
        raise ValueError(
            f"found no vbench with a {LIST}{f' for {python}' if python else ''}; use --prompts FILE (such as "
            f"a {LIST}), --vbench-python with an interpreter that has vbench, --prompts own for 12 bundled "
            "prompts, which VBench cannot score, or --tiny for the tiny checkpoint"
        )
    return listed(path)


def listed(path: Path) -> PromptList:
    """The distinct prompts of a file."""
    file = read_prompts(path)
    return PromptList(tuple(dict.fromkeys(file.prompts)), str(path), file.is_vbench)


def file_name(prompt: str, index: int, seed: int, naming: str) -> str:
    """The name of a video: `{prompt}-{index}.mp4` for VBench, else like `a-circle-1f0c2a9be3d4-s42.mp4`."""
    return f"{prompt}-{index}.mp4" if naming == VBENCH else video_name(prompt, seed)


def choose_naming(naming: str, prompts: PromptList, root: Path) -> str:
    """`vbench` or `slug`; auto is vbench for VBench's list. ValueError for prompts that are unsafe file
    names.

    VBench has "a fantasy landscape" and "A fantasy landscape", which collide only if `root`, the folder of
    the videos, is on a case-insensitive file system.
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
    """Whether the file system is case-insensitive. The folder need not exist yet."""
    there = next(path for path in (folder, *folder.resolve().parents) if path.is_dir())
    with tempfile.NamedTemporaryFile(dir=there, prefix=".Probe") as file:
        path = Path(file.name)
        return path.with_name(path.name.swapcase()).exists()


def unsafe(prompts: Sequence[str], one_case: bool) -> Iterator[str]:
    """Yield prompts that cannot be file names, with the reason. one_case: the file system ignores case."""
    seen: dict[str, str] = {}
    for prompt in prompts:
        key = unicodedata.normalize("NFC", prompt).casefold()
        reason = why_unsafe(prompt)
        if reason is None and one_case and key in seen:
            reason = f"differs only in case from {seen[key][:60]!r}, which this file system ignores"
        seen.setdefault(key, prompt)
        if reason is not None:
            yield f"{prompt[:60]!r} ({reason})"


def why_unsafe(prompt: str) -> str | None:
    match = _UNSAFE.search(prompt)
    if match is not None:
        return f"has {match[0]!r}"
    if not prompt.isprintable():
        return "contains an invisible character"
    if prompt.startswith((".", "-", "~", " ")):
        return f"starts with {prompt[0]!r}"
    if _DEVICES.fullmatch(prompt):
        return "is a device name of Windows"
    size = len(prompt.encode("utf-8", "surrogatepass"))
    return f"has {size} bytes; the limit is {LONGEST}" if size > LONGEST else None
