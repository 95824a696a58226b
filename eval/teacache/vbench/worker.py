"""Runs in vbench's interpreter: reports installed packages, or evaluates one dimension.

It does not import this project, because that interpreter may not have it.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--probe", nargs="*", metavar="MODULE")
    parser.add_argument("--videos")
    parser.add_argument("--output")
    parser.add_argument("--dimension")
    parser.add_argument("--full-info")
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    if arguments.probe is not None:
        print(json.dumps(probe(arguments.probe)))
    else:
        evaluate(arguments)
    return 0


def probe(modules: list) -> dict:
    """The installed packages, found without imports, because imports are slow and some need a GPU.

    missing: the packages of `modules` that are not installed.
    """
    spec = importlib.util.find_spec("vbench")
    origin = spec.origin if spec is not None else None
    path = os.path.join(os.path.dirname(origin), "VBench_full_info.json") if origin else ""
    return {
        "python": sys.version.split()[0],
        "vbench": origin,
        "full_info": path if os.path.isfile(path) else None,
        "missing": [name for name in modules if importlib.util.find_spec(name) is None],
    }


def evaluate(arguments: argparse.Namespace) -> None:
    """Write OUTPUT/DIMENSION_eval_results.json."""
    import torch
    from vbench import VBench

    device = arguments.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    bench = VBench(torch.device(device), arguments.full_info, arguments.output)
    bench.evaluate(
        videos_path=arguments.videos,
        name=arguments.dimension,
        dimension_list=[arguments.dimension],
        read_frame=False,
        mode="vbench_standard",
        imaging_quality_preprocessing_mode="longer",
    )


if __name__ == "__main__":
    sys.exit(main())
