"""Draw the paper's figures 1, 2 and 3 from your own data:

python figures.py quality --root samples          1: quality against latency of each method
python figures.py steps VIDEO.json [VIDEO.json]   2: computed steps of a run, against a uniform schedule
python figures.py changes --config FILE --prompts FILE    3: changes of signals and output per step

`quality` reads the videos of experiments/*.py, `steps` the JSON file next to a video of a sample script, and
`changes` does a full run for each prompt. All write PNG or SVG files to --output.
"""

from __future__ import annotations

from videosys import leave_at_interrupt

if __name__ == "__main__":
    leave_at_interrupt()

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from common_metrics import compare
from reporting import draw, results
from toolbox import command, read_json, write_text

from videosys import CommandParser, check_matplotlib, exit_status, load_family_config, read_prompts
from videosys.calibration import Study, line_axes, plot_signals, save_figure

QUALITY = {"vbench": "VBench, %", "lpips": "LPIPS", "ssim": "SSIM", "psnr": "PSNR, dB"}
MOST_PROMPTS = 8


def main(argv: Sequence[str] | None = None) -> int:
    name, *rest = [*(sys.argv[1:] if argv is None else argv)] or [""]
    return exit_status(lambda: run(name, rest), "")


def run(name: str, rest: Sequence[str]) -> int:
    """Draw the figure with this name, or print the help."""
    if name in ("-h", "--help"):
        print(__doc__)
        return 0
    if name not in FIGURES:
        print(f"error: unknown figure {name!r}; figures: {', '.join(FIGURES)} (see --help)", file=sys.stderr)
        return 2
    draw_figure, options = FIGURES[name]
    parser = CommandParser(prog=f"figures.py {name}", description=draw_figure.__doc__)
    parser.add_argument("--output", type=Path, default=Path("outputs/figures"), help="output folder")
    options(parser.add_argument)
    return command(draw_figure, parser, rest)


def quality_options(add: Callable[..., Any]) -> None:
    add("--root", type=Path, required=True, help="the --output folder of experiments/*.py")
    add("--alexnet-weights", type=Path, help="torchvision's weights file, for LPIPS")
    add("--device", default="auto", help="device of the metrics: auto (default), cpu, cuda, mps")


def steps_options(add: Callable[..., Any]) -> None:
    add("records", type=Path, nargs="+", metavar="VIDEO.json", help="the JSON file next to a video")


def changes_options(add: Callable[..., Any]) -> None:
    add("--config", type=Path, required=True, help="YAML or Python file, as for the samples")
    add("--model", help="the model, if the config does not determine it")
    add("--prompts", type=Path, required=True, help="a file of prompts")
    add("--limit", type=int, default=MOST_PROMPTS, help="use only the first prompts (%(default)s)")
    add("overrides", nargs="*", metavar="KEY=VALUE", help="config overrides")


def quality(arguments: argparse.Namespace) -> int:
    """Figure 1: one panel per available quality metric, one point per method."""
    metrics = compare.choose_metrics(None, arguments.device, 8, arguments.alexnet_weights)
    for folder in results.find_models(arguments.root):
        model = results.load_model(folder, metrics, quiet=True)
        panels = [
            draw.Panel(model.name, "latency, s", title, points)
            for metric, title in QUALITY.items()
            if (points := measured(model, metric))
        ]
        if panels:
            path = arguments.output / f"{model.name}_quality_latency.svg"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, draw.plot(panels))
            print(path)
        else:
            print(f"{model.name}: no quality to draw; generate videos with more methods", file=sys.stderr)
    return 0


def measured(model: Any, metric: str) -> dict[str, tuple[float, float]]:
    """(latency, quality) of the methods that have this metric. All except VBench compare with the full
    run.
    """
    points = {}
    for result in model.results:
        scores = (result.vbench or {}).get("total")
        value = scores if metric == "vbench" else result.value("base", metric)
        if value is not None:
            points[result.name] = result.latency, value
    return points


def steps(arguments: argparse.Namespace) -> int:
    """Figure 2: for each video the accumulated change with the threshold, and the computed steps above those
    of a uniform schedule.
    """
    check_matplotlib()
    for path in arguments.records:
        save_figure(steps_axes(record_of(path)), arguments.output / f"{path.stem}.steps.png")
        print(arguments.output / f"{path.stem}.steps.png")
    return 0


def record_of(path: Path) -> Mapping[str, Any]:
    """The content of the JSON file next to a video. ValueError for other files."""
    content = read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("steps"), list) or not content["steps"]:
        raise ValueError(f"{path}: must be the JSON file next to a video, with its steps")
    return content


def steps_axes(record: Mapping[str, Any]) -> Any:
    made = record["steps"]
    computed = [step["step"] for step in made if step["computed"]]
    axes = line_axes(f"computed {len(computed)} of {len(made)} steps", "step", "accumulated", whole_x=True)
    axes.margins(y=0.2)  # room below the curve for the two rows
    known = [(step["step"], step["accumulated"]) for step in made if step.get("accumulated") is not None]
    if known:
        axes.plot(*zip(*known), marker="o", markersize=3, label="accumulated change, rescaled")
    if known and record.get("threshold") is not None:
        axes.axhline(record["threshold"], color="tab:green", label=f"threshold {record['threshold']:g}")
    across = axes.get_xaxis_transform()  # x in steps, y as a share of the axes
    axes.plot(computed, [0.06] * len(computed), "|", color="black", transform=across, label="computed")
    even = uniform(len(made), len(computed))
    axes.plot(even, [0.02] * len(even), "|", color="tab:red", transform=across, label="uniform, as many")
    return axes


def uniform(steps: int, count: int) -> list[int]:
    """`count` of `steps` steps at equal distances, including the first and the last."""
    return sorted({round(place * (steps - 1) / max(count - 1, 1)) for place in range(count)})


def changes(arguments: argparse.Namespace) -> int:
    """Figure 3: relative L1 changes, averaged over full runs. Finished runs are kept, so the command can
    resume.
    """
    check_matplotlib()
    config = load_family_config(arguments.config, arguments.model, arguments.overrides)
    prompts = read_prompts(arguments.prompts).prompts[: arguments.limit]
    study = Study(config, prompts, (), arguments.output / "changes.work")
    path = arguments.output / "changes.png"
    plot_signals(study.traces, path)
    print(path)
    return 0


FIGURES: Mapping[str, tuple[Callable[..., int], Callable[..., None]]] = MappingProxyType(
    {
        "quality": (quality, quality_options),
        "steps": (steps, steps_options),
        "changes": (changes, changes_options),
    }
)

if __name__ == "__main__":
    sys.exit(main())
