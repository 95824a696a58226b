"""Line plots as PNG files. Needs matplotlib, which is an extra."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from videosys.utils.files import replacing
from videosys.utils.installed import install_command

SIZE_INCHES, DPI = (9.6, 4.8), 100


def advice() -> str:
    """The line that explains how to install matplotlib, which plots need."""
    return f"plots need matplotlib: {install_command('plot')}"


def has_matplotlib() -> bool:
    """Whether plots can be drawn here; matplotlib itself is not imported."""
    return importlib.util.find_spec("matplotlib") is not None


def check_matplotlib() -> None:
    """ValueError if matplotlib is not installed: for callers with long work before the plot."""
    if not has_matplotlib():
        raise ValueError(advice())


def line_axes(title: str, x_label: str, y_label: str, whole_x: bool = False) -> Any:
    """Empty matplotlib axes with a grid, on a new figure; does not use pyplot.

    whole_x: ticks of x are whole numbers, such as steps. ValueError if matplotlib is not installed.
    """
    check_matplotlib()
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    axes = Figure(figsize=SIZE_INCHES, dpi=DPI, layout="constrained").subplots()
    axes.set(title=title, xlabel=x_label, ylabel=y_label)
    axes.grid(alpha=0.3)
    if whole_x:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return axes


def save_figure(axes: Any, path: str | Path) -> Path:
    """Save a PNG file atomically and return its path; the legend next to the axes lists all labels."""
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0))
    with replacing(path) as temporary:
        axes.figure.savefig(temporary, format="png")
    return Path(path)
