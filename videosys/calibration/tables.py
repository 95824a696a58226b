"""The report of a calibration as Markdown: tables of signals, fits, policies and schedules."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from videosys.cache import ScheduleConfig
from videosys.calibration.calibrate import CalibrationReport, PolicyResult, correlations
from videosys.calibration.collect import Trace
from videosys.calibration.fit import Fit
from videosys.calibration.measure import FULL, Pace


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def fits_table(fits: Sequence[Fit]) -> str:
    """The paper's two ablations: which signal, which degree."""
    header = ("signal", "degree", "R^2", "R^2 held out", "lowest value", "verdict")
    return markdown_table(header, (_fit_row(item) for item in fits))


def _fit_row(item: Fit) -> tuple[str, ...]:
    held_out = "-" if item.r2_held_out is None else f"{item.r2_held_out:.3f}"
    verdict = f"refused: {item.problem()}" if item.problem() else item.warning() or "good"
    return (
        item.signal.replace("_", " "),
        str(item.degree),
        f"{item.r2:.3f}",
        held_out,
        f"{item.lowest:.3g}",
        verdict,
    )


def correlations_table(traces: Sequence[Trace]) -> str:
    """The correlation of each signal's change with the output's."""
    rows = [
        (name.replace("_", " "), *(f"{value:.3f}" for value in pair))
        for name, pair in correlations(traces).items()
    ]
    return markdown_table(("signal", "correlation", "without the first and the last change"), rows)


def policies_table(rows: Sequence[PolicyResult], times: Pace) -> str:
    """Computed steps, speed-ups and quality of each policy, by budget."""
    header = ("policy", "computed", "speed-up", "as timed", "PSNR dB", "SSIM")
    ordered = sorted(rows, key=lambda row: (row.budget, row.name))
    return markdown_table(header, (_policy_row(row, times) for row in ordered))


def _policy_row(row: PolicyResult, times: Pace) -> tuple[str, ...]:
    result = row.result
    return (
        row.label,
        f"{result.computed:.1f} of {times.steps}",
        f"{times.speedup(result.computed):.2f}",
        f"{result.speedup:.2f}",
        with_margin(result.psnr[FULL], result.psnr_margin[FULL]),
        f"{result.ssim[FULL]:.4f}",
    )


def schedules_table(rows: Sequence[PolicyResult]) -> str:
    """The computed steps of the schedules, counted from 0."""
    listed = [
        (row.name, str(row.budget), " ".join(map(str, row.policy.computed or ())))
        for row in sorted(rows, key=lambda row: (row.budget, row.name))
        if isinstance(row.policy, ScheduleConfig)
    ]
    return markdown_table(("policy", "budget", "computed steps"), listed)


def with_margin(value: float, margin: float) -> str:
    """A mean with its 95 % confidence interval, where there is one."""
    return f"{value:.1f}" if not math.isfinite(margin) else f"{value:.1f} ± {margin:.1f}"


def report_text(report: CalibrationReport) -> str:
    """The whole report in Markdown."""
    study = report.study
    scope = study.scope
    best_fit = report.best_fit
    return "\n".join(
        (
            f"# Calibration of {scope.model}, {scope.num_inference_steps} steps of {scope.scheduler}",
            "",
            f"Learnt from {len(study.learnt)} prompts, judged on {len(study.held_out)} others, against the "
            "full runs with the same seeds. The speed-up is of loop and autoencoder together, for the number "
            "of computed steps, by a line through all that was timed.",
            "",
            "## From a signal's change to the output's",
            "",
            correlations_table(study.traces),
            "",
            fits_table(report.fits),
            "",
            "No polynomial is good: TeaCache decides by the change itself."
            if best_fit is None
            else f"TeaCache uses degree {best_fit.degree} of the {best_fit.signal.replace('_', ' ')}: "
            f"{', '.join(f'{value:.6g}' for value in best_fit.coefficients)} (highest power first).",
            "",
            "## Policies",
            "",
            policies_table(report.rows, report.pace),
            "",
            schedules_table(report.rows),
            "",
        )
    )
