"""The report for a documentation page: one table, a plot per model, and all columns as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

from toolbox import write_text

from reporting import page

MODEL = "model"
COLUMNS = (
    *(MODEL, "method", "computed", "TFLOPs", "speed-up"),
    *("SSIM to base", "PSNR dB to base", "PSNR dB to reference"),
)
PLOT = "_psnr_latency.svg"


def fill(path: Path, blocks: Sequence[page.Block], folder: Path) -> None:
    """Write the short report between the marks of a page, and its tables to CSV files next to the page.

    blocks: the whole report, with images in `folder`.
    """
    main = combined(blocks, "TFLOPs")
    files = {"tiny": main, "sizes": combined(blocks, "PFLOPs", "size")}
    for name, table in files.items():
        write_text(beside(path, name), to_csv(table))
    links = ", ".join(f"[{beside(path, name).name}]({beside(path, name).name})" for name in files)
    chosen = [column for column in COLUMNS if column in main.head]
    plots = [block for block in blocks if isinstance(block, page.Picture) and block.name.endswith(PLOT)]
    short = [*introduction(blocks), columns(main, chosen), page.Text(f"All columns and sizes: {links}.")]
    page.fill(path, [*short, *plots], folder)


def beside(path: Path, name: str) -> Path:
    return path.with_name(f"{path.stem}_{name}.csv")


def introduction(blocks: Sequence[page.Block]) -> Iterator[page.Text]:
    """The texts before the first heading."""
    for block in blocks:
        if not isinstance(block, page.Text):
            return
        yield block


def combined(blocks: Sequence[page.Block], needed: str, first: str = "method") -> page.Table:
    """Join the tables that start with column `first` and have column `needed`, with the heading of each."""
    rows: list[dict[str, str]] = []
    heading = ""
    for block in blocks:
        if isinstance(block, page.Heading):
            heading = block.words
        elif isinstance(block, page.Table) and block.head[0] == first and needed in block.head:
            rows += [{MODEL: heading, **dict(zip(block.head, row))} for row in block.rows]
    head = list(dict.fromkeys(name for row in rows for name in row))
    return page.Table(head, [[row.get(name, "-") for name in head] for row in rows])


def columns(table: page.Table, names: Sequence[str]) -> page.Table:
    places = [table.head.index(name) for name in names]
    return page.Table(names, [[row[place] for place in places] for row in table.rows])


def to_csv(table: page.Table) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([table.head, *table.rows])
    return text.getvalue()
