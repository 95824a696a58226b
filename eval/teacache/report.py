"""Write a report (Markdown and HTML) about all videos below a folder: python report.py --root samples

It has the main table of each model, quality against latency, frames side by side, the paper's numbers, and a
projection of the same shares of computed steps to the published sizes on a GPU.
"""

from __future__ import annotations

from videosys import leave_at_interrupt

if __name__ == "__main__":
    leave_at_interrupt()

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from common_metrics import compare
from reporting import gpus, page, results, sections, short
from toolbox import command, write_text

from videosys import CommandParser

TITLE = "Quality and speed of caches"


def main(argv: Sequence[str] | None = None) -> int:
    return command(run, parser(), argv)


def parser() -> argparse.ArgumentParser:
    arguments = CommandParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--root", type=Path, required=True, help="the --output folder of experiments/*.py")
    arguments.add_argument("--output", type=Path, help="folder for report.md and report.html; default: ROOT")
    arguments.add_argument(
        "--alexnet-weights", "--alexnet_weights", type=Path, help="torchvision's weights file, for LPIPS"
    )
    arguments.add_argument(
        "--device", default="auto", help="device of the metrics: auto (default), cpu, cuda, cuda:N, mps"
    )
    arguments.add_argument(
        "--gpu",
        default=gpus.DEFAULT,
        help=f"GPU of the projection: {', '.join(gpus.known())}, or NAME=TFLOPS,TBS",
    )
    arguments.add_argument("--no-projection", action="store_true", help="skip the published sizes")
    arguments.add_argument("--command", default="", help="command to name in the report")
    arguments.add_argument(
        "--page",
        type=Path,
        help="a Markdown file: replace the part between its marks, and write CSV files next to it",
    )
    arguments.add_argument("--quiet", action="store_true", help="no progress bars")
    return arguments


def run(arguments: argparse.Namespace) -> int:
    output, gpu = arguments.output or arguments.root, gpus.find(arguments.gpu)
    if arguments.page is not None:
        page.parts(arguments.page)
    folders = results.find_models(arguments.root)
    metrics = compare.choose_metrics(None, arguments.device, 8, arguments.alexnet_weights)
    models = [results.load_model(folder, metrics, arguments.quiet) for folder in folders]
    output.mkdir(parents=True, exist_ok=True)
    blocks: list[page.Block] = [page.Heading(TITLE, 1), *sections.introduction(models, arguments.command)]
    for model in models:
        blocks += sections.model_section(model, output)
    if not arguments.no_projection:
        blocks += sections.projection(models, gpu)
    write_text(output / "report.md", page.to_markdown(blocks))
    write_text(output / "report.html", page.to_html(blocks, output, TITLE))
    if arguments.page is not None:
        short.fill(arguments.page, blocks[1:], output)
    print(output / "report.md")
    print(output / "report.html")
    return 0


if __name__ == "__main__":
    sys.exit(main())
