"""A page of headings, text, tables and images, as Markdown and as self-contained HTML."""

from __future__ import annotations

import base64
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from videosys import replacing

BEGIN, END = "<!-- report: begin -->", "<!-- report: end -->"
IMAGES = "images"
STYLE = (
    "body{font-family:sans-serif;max-width:70em;margin:2em auto;padding:0 1em}"
    "table{border-collapse:collapse;margin:1em 0}td,th{padding:.25em .7em;border-bottom:1px solid #ddd}"
    "td{text-align:right}td:first-child,th:first-child{text-align:left}img,svg{max-width:100%}"
)


@dataclass(frozen=True)
class Heading:
    words: str
    level: int = 2

    def markdown(self) -> str:
        return f"{'#' * self.level} {self.words}"

    def html(self, folder: Path) -> str:
        return f"<h{self.level}>{escape(self.words)}</h{self.level}>"


@dataclass(frozen=True)
class Text:
    words: str

    def markdown(self) -> str:
        return self.words

    def html(self, folder: Path) -> str:
        return f"<p>{escape(self.words)}</p>"


@dataclass(frozen=True)
class Table:
    head: Sequence[str]
    rows: Sequence[Sequence[str]]

    def markdown(self) -> str:
        lines = [self.head, ["---", *("--:" for _ in self.head[1:])], *self.rows]
        return "\n".join("| " + " | ".join(line) + " |" for line in lines)

    def html(self, folder: Path) -> str:
        head = "".join(f"<th>{escape(cell)}</th>" for cell in self.head)
        rows = "".join(
            "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in self.rows
        )
        return f"<table><tr>{head}</tr>{rows}</table>"


@dataclass(frozen=True)
class Picture:
    """An image file next to the page: linked in Markdown, embedded in HTML."""

    name: str
    words: str

    def markdown(self) -> str:
        return f"![{self.words}]({self.name})"

    def html(self, folder: Path) -> str:
        path = folder / self.name
        if path.suffix == ".svg":
            return path.read_text(encoding="utf-8")
        data = base64.b64encode(path.read_bytes()).decode()
        return f'<img alt="{escape(self.words, quote=True)}" src="data:image/png;base64,{data}">'


Block = Heading | Text | Table | Picture


def parts(path: Path) -> tuple[str, str]:
    """The text before and after the marks of a page. ValueError unless each mark occurs once."""
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ValueError(f"{path}: must contain the marks {BEGIN} and {END} once each")
    return text[: text.index(BEGIN)], text[text.index(END) + len(END) :]


def fill(path: Path, blocks: Sequence[Block], folder: Path) -> None:
    """Write blocks between the marks of a page, one heading level down. Images go to `images` next to the
    page.
    """
    before, after = parts(path)
    lowered = [_lowered(block) for block in blocks]
    for block in blocks:
        if isinstance(block, Picture):
            with replacing(path.parent / IMAGES / block.name) as temporary:
                shutil.copyfile(folder / block.name, temporary)
    with replacing(path) as temporary:
        temporary.write_text(f"{before}{BEGIN}\n\n{to_markdown(lowered)}\n{END}{after}", encoding="utf-8")


def _lowered(block: Block) -> Block:
    if isinstance(block, Heading):
        return Heading(block.words, block.level + 1)
    return Picture(f"{IMAGES}/{block.name}", block.words) if isinstance(block, Picture) else block


def to_markdown(blocks: Sequence[Block]) -> str:
    return "\n\n".join(block.markdown() for block in blocks) + "\n"


def to_html(blocks: Sequence[Block], folder: Path, title: str) -> str:
    """The page as HTML; its images are read from `folder`."""
    body = "\n".join(block.html(folder) for block in blocks)
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{STYLE}</style></head><body>\n{body}\n</body></html>\n"
    )
