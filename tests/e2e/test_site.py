"""The documentation as a site: built without a warning, whole, and nothing in it is loaded from elsewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).resolve().parents[2]
LOADED = {"link": "href", "script": "src", "img": "src", "source": "src", "iframe": "src", "video": "src"}


class Page(HTMLParser):
    """The anchors of a page, what it links to, and what a browser loads to show it."""

    def __init__(self, text: str):
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        given = {name: value or "" for name, value in attrs}
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        if tag in LOADED and LOADED[tag] in given:
            self.loaded.append(given[LOADED[tag]])


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    pytest.importorskip("mkdocs", reason="mkdocs is not installed: pip install -e '.[docs]'")
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site) -> dict[Path, Page]:
    return {path: Page(path.read_text("utf-8")) for path in site.rglob("*.html") if path.name != "404.html"}


pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("site")]


def test_every_page_of_the_docs_is_there(site):
    names = [path.relative_to(ROOT / "docs").with_suffix(".html") for path in (ROOT / "docs").rglob("*.md")]
    assert len(names) > 15
    assert [name for name in (*names, "index.html") if not (site / name).is_file()] == []


def test_the_navigation_names_no_page_twice(site):
    nav = (ROOT / "mkdocs.yml").read_text("utf-8").partition("\nnav:\n")[2]
    named = re.findall(r"[\w/-]+\.md", nav)
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert len(named) == len(set(named))
    assert {*named} <= {*pages, "index.md"}  # those that are not named are listed under "More"


def test_links_anchors_and_pictures_lead_somewhere(site, pages):
    lost = []
    for path, page in pages.items():
        for target in (*page.links, *page.loaded):
            url = urlsplit(target)
            if url.scheme or url.netloc:
                continue
            file = (path.parent / unquote(url.path)).resolve() if url.path else path
            known = pages[file].anchors if file in pages else {url.fragment}
            if not file.exists() or (url.fragment and unquote(url.fragment) not in {*known, "__skip"}):
                lost.append(f"{path.relative_to(site)}: {target}")
    assert lost == []


def test_a_reader_needs_no_network(site, pages):
    loaded = {target for page in pages.values() for target in page.loaded}
    assert [target for target in loaded if re.match(r"(https?:)?//", target)] == []
    styles = [path.read_text("utf-8") for path in site.rglob("*.css")]
    assert styles
    assert not [style for style in styles if re.search(r"(@import|url\()\s*[\"']?(https?:)?//", style)]


def test_the_reference_comes_from_the_docstrings(site):
    text = (site / "reference" / "engine.html").read_text("utf-8")
    for words in ("VideoSysEngine", "save_video", "Return an instance of the dataclass"):
        assert words in text, words
    assert "num_inference_steps" in (site / "reference" / "models.html").read_text("utf-8")


def test_formulas_are_drawn_by_the_browser_itself(site):
    text = (site / "teacache.html").read_text("utf-8")
    assert text.count("<math") > 5
    assert "arithmatex" not in text
