"""Hooks for mkdocs: the README as first page, formulas as MathML, and all pages in the navigation."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

import latex2mathml.converter
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
PAGES = ROOT / "docs"
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)
INSIDE = re.compile(r"(\]\(|src=\"|href=\")docs/")  # links of the README to pages and pictures
OUTSIDE = re.compile(r"(?<!!)\[([^\]]+)\]\((?!https?:|#|mailto:)((?:\.\./)*(?!docs/)[\w.-]+(?:/[\w./-]*)?)\)")


def on_config(config: Any) -> Any:
    """Adds pages that are missing in the navigation to its end."""
    named = re.findall(r"[\w/-]+\.md", str(config.nav))
    folder = Path(config.docs_dir)
    pages = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.md"))
    more = [page for page in pages if page not in named]
    if more:
        config.nav.append({"More": more})
    return config


def on_files(files: Files, *, config: Any) -> Files:
    """Makes the README the first page."""
    text = INSIDE.sub(r"\1", (ROOT / "README.md").read_text(encoding="utf-8"))
    files.append(File.generated(config, "index.md", content=text))
    return files


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Replaces links to files outside of the site by the names of the files."""
    folder = Path(page.file.src_uri).parent
    return OUTSIDE.sub(lambda match: _link(match, folder), markdown)


def _link(match: re.Match[str], folder: Path) -> str:
    target = (PAGES / folder / match[2]).resolve()
    inside = target.is_relative_to(PAGES) and target.exists()
    return match[0] if inside else f"{match[1]} (`{match[2].lstrip('./')}`)"


def on_page_content(html_text: str, **_: Any) -> str:
    """Converts formulas to MathML, which browsers render."""
    return FORMULA.sub(_mathml, html_text)


def _mathml(match: re.Match[str]) -> str:
    display = "block" if match[2] == "[" else "inline"
    return latex2mathml.converter.convert(html.unescape(match[3]), display=display)
