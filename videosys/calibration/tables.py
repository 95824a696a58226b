"""The report of a calibration as Markdown: tables of signals, fits, policies and schedules."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence

from videosys.cache import ScheduleConfig
from videosys.calibration.calibrate import CalibrationReport, PolicyResult, correlations, disagreements
from videosys.calibration.collect import Trace
from videosys.calibration.fit import Fit
from videosys.calibration.measure import FULL, Pace


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def words(name: str) -> str:
    """The name of a signal with spaces."""
    return name.replace("_", " ")


def fits_table(fits: Sequence[Fit]) -> str:
    """The table of the paper's two ablations: signal and degree."""
    rows = [
        (
            words(item.signal),
            str(item.degree),
            f"{item.r2:.3f}",
            "-" if item.r2_held_out is None else f"{item.r2_held_out:.3f}",
            f"{item.lowest:.3g}",
            f"refused: {item.problem()}" if item.problem() else item.warning() or "good",
        )
        for item in fits
    ]
    return markdown_table(("signal", "degree", "R^2", "R^2 held out", "lowest value", "verdict"), rows)


def correlations_table(traces: Sequence[Trace]) -> str:
    """The table of correlations between each signal's change and the output's change."""
    rows = [(words(name), *(f"{value:.3f}" for value in pair)) for name, pair in correlations(traces).items()]
    return markdown_table(("signal", "correlation", "without the first and the last change"), rows)


def policies_table(rows: Sequence[PolicyResult], times: Pace) -> str:
    """The table of computed steps, speed-up and quality of each policy, by budget."""
    ordered = sorted(rows, key=lambda row: (row.budget, row.name))
    others = [name for name in (rows[0].result.psnr if rows else ()) if name != FULL]
    cells = [
        (
            row.label,
            f"{row.result.computed:.1f} of {row.evaluations or times.steps}",
            f"{times.speedup(row.result.computed, row.evaluations):.2f}",
            f"{row.result.speedup:.2f}",
            with_margin(row.result.psnr[FULL], row.result.psnr_margin[FULL]),
            f"{row.result.ssim[FULL]:.4f}" if row.result.ssim else "-",
            *(with_margin(row.result.psnr[name], row.result.psnr_margin[name]) for name in others),
        )
        for row in ordered
    ]
    header = ("policy", "computed", "speed-up", "as timed", "PSNR dB", "SSIM")
    return markdown_table((*header, *(f"PSNR dB, {name}" for name in others)), cells)


def predictions_table(rows: Sequence[PolicyResult]) -> str:
    """The table of predicted and measured PSNR of each plan."""
    ordered = sorted(rows, key=lambda row: (row.budget, row.name))
    cells = [
        (row.name, str(row.budget), name, f"{value:.1f}", f"{row.result.psnr[name]:.1f}")
        for row in ordered
        for name, value in row.predicted.items()
    ]
    return markdown_table(("plan", "evaluations", "against", "predicted dB", "measured dB"), cells)


def predictions_text(rows: Sequence[PolicyResult]) -> list[str]:
    """The accuracy of the predictions: a line per reference, the table, and a line per large deviation."""
    errors: dict[str, list[float]] = {}
    for row in rows:
        for name, value in row.predicted.items():
            errors.setdefault(name, []).append(row.result.psnr[name] - value)
    if not errors:
        return []
    means = [
        f"Against the {name} run, measured minus predicted PSNR is {statistics.fmean(values):+.1f} dB on "
        f"average; the mean absolute difference is {statistics.fmean(map(abs, values)):.1f} dB."
        for name, values in errors.items()
    ]
    far = [f"- {line}" for line in disagreements(rows)]
    return [
        "## Predicted and measured",
        " ".join(means),
        predictions_table(rows),
        *(["\n".join(far)] if far else []),
    ]


def schedules_table(rows: Sequence[PolicyResult]) -> str:
    """The table of each schedule's computed steps, counted from 0."""
    cells = [
        (row.name, str(row.budget), " ".join(map(str, row.policy.computed or ())))
        for row in sorted(rows, key=lambda row: (row.budget, row.name))
        if isinstance(row.policy, ScheduleConfig)
    ]
    return markdown_table(("policy", "budget", "computed steps"), cells)


def with_margin(value: float, margin: float) -> str:
    """A mean, followed by its 95 % confidence interval if it is finite."""
    return f"{value:.1f}" if not math.isfinite(margin) else f"{value:.1f} ± {margin:.1f}"


def report_text(report: CalibrationReport) -> str:
    """The whole report in Markdown."""
    study, scope, best_fit = report.study, report.study.scope, report.best_fit
    verdict = "No polynomial is usable: TeaCache uses the change without rescaling."
    if best_fit is not None:
        coefficients = ", ".join(f"{value:.6g}" for value in best_fit.coefficients)
        verdict = (
            f"TeaCache uses degree {best_fit.degree} for the {words(best_fit.signal)}: {coefficients} "
            "(highest power first)."
        )
    parts = (
        f"# Calibration of {scope.model}, {scope.num_inference_steps} steps of {scope.scheduler}",
        f"Calibrated on {len(study.learnt)} prompts and evaluated on {len(study.held_out)} others, against "
        f"the full runs with the same seeds. {report.about_speedup}",
        "## From a signal's change to the output's",
        correlations_table(study.traces),
        fits_table(report.fits),
        verdict,
        "## Policies",
        policies_table(report.rows, report.pace),
        *predictions_text(report.rows),
        schedules_table(report.rows),
    )
    return "\n\n".join(parts) + "\n"
