"""Compute PSNR, SSIM and LPIPS of the videos in one folder against videos of the same names in another:

python common_metrics/eval.py --gt_video_dir FOLDER --generated_video_dir FOLDER
"""

from __future__ import annotations

from videosys import leave_at_interrupt

if __name__ == "__main__":
    leave_at_interrupt()

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from toolbox import command, write_json

from common_metrics import compare
from videosys import CommandParser

DEFINITIONS = {
    "psnr": "dB per frame, MSE over pixels and channels in [0, 1]; 100 for an MSE below 1e-10",
    "ssim": "per frame and channel, in [0, 1], Gaussian window 11 x 11 with sigma 1.5, without padding",
    "lpips": "AlexNet, version 0.1, spatial: the mean of each frame's map",
}


def main(argv: Sequence[str] | None = None) -> int:
    return command(run, parser(), argv)


def parser() -> argparse.ArgumentParser:
    arguments = CommandParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument(
        "--gt_video_dir", "--gt-video-dir", type=Path, required=True, help="folder of the reference videos"
    )
    arguments.add_argument("--generated_video_dir", "--generated-video-dir", type=Path, required=True)
    arguments.add_argument(
        "--metrics", nargs="+", choices=compare.METRICS, help="default: all whose weights are available"
    )
    arguments.add_argument(
        "--alexnet-weights", "--alexnet_weights", type=Path, help="torchvision's weights file, for LPIPS"
    )
    arguments.add_argument("--device", default="auto", help="auto (default), cpu, cuda, cuda:N, mps")
    arguments.add_argument("--batch-size", type=int, default=8, help="batch size of LPIPS in frames")
    arguments.add_argument(
        "--public-batch-size", type=int, default=compare.PUBLIC_BATCH, help="number of videos, see below"
    )
    arguments.add_argument(
        "--output", type=Path, help="a JSON file; default: GENERATED_VIDEO_DIR/metrics.json"
    )
    arguments.add_argument("--quiet", action="store_true", help="no progress bars")
    arguments.epilog = (
        "A video's value is the mean over its frames. 'per video' is the mean over videos. 'public way' is "
        "the mean over batches of --public-batch-size videos, as in published scripts, so a shorter last "
        "batch has more weight."
    )
    return arguments


def run(arguments: argparse.Namespace) -> int:
    for name in ("batch_size", "public_batch_size"):
        if getattr(arguments, name) < 1:
            raise ValueError(
                f"--{name.replace('_', '-')} is {getattr(arguments, name)}; it must be 1 or more"
            )
    pairs = compare.find_pairs(arguments.gt_video_dir, arguments.generated_video_dir)
    metrics = compare.choose_metrics(
        arguments.metrics, arguments.device, arguments.batch_size, arguments.alexnet_weights
    )
    rows = compare.measure(pairs, metrics, arguments.quiet)
    summary = compare.summary(rows, metrics, arguments.public_batch_size)
    output = arguments.output or arguments.generated_video_dir / "metrics.json"
    write_json(output, content(arguments, rows, summary))
    print(f"{len(pairs)} videos of {arguments.generated_video_dir} against {arguments.gt_video_dir}")
    print(compare.table(summary))
    print(output)
    return 0


def content(arguments: argparse.Namespace, rows: list[dict], summary: dict[str, dict]) -> dict:
    return {
        "gt_video_dir": str(arguments.gt_video_dir),
        "generated_video_dir": str(arguments.generated_video_dir),
        "definitions": {name: DEFINITIONS[name] for name in summary},
        "public_batch_size": arguments.public_batch_size,
        "mean": summary,
        "videos": rows,
    }


if __name__ == "__main__":
    sys.exit(main())
