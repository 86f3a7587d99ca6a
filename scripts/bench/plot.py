"""The picture of scripts/bench/bench.py: throughput beside the ceiling, and latency percentiles, over the steps of load.

Needs matplotlib, which is in the train extra; bench writes bench.json alone where that is missing.
"""

import math
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from scripts.atomic import aside
from scripts.phrases import counted

AXES = {"closed": ("concurrency", "connections (closed loop)"), "open": ("rate", "requests/s offered (open loop)")}
COLOURS = {"p50_ms": "#1b7837", "p90_ms": "#2166ac", "p99_ms": "#d95f02", "p99.9_ms": "#7a0177"}


def plot(report: dict[str, Any], path: Path) -> None:
    """Write bench.json's content as a PNG, a row for each kind of load."""
    steps = {mode: [step for step in report["steps"] if step["mode"] == mode] for mode in AXES}
    modes = [mode for mode in AXES if steps[mode]]
    style: Any = {"font.size": 10, "axes.grid": True, "grid.alpha": 0.3, "axes.axisbelow": True, "text.parse_math": False}
    style |= {"axes.spines.top": False, "axes.spines.right": False}
    with mpl.rc_context(style):
        page = Figure(figsize=(11, 4.6 * len(modes)), layout="constrained")
        grid = page.subplots(len(modes), 2, squeeze=False)
        for row, mode in zip(grid, modes, strict=True):
            key, label = AXES[mode]
            settings = [f"{step[key]:g}" for step in steps[mode]]
            _throughput(row[0], settings, steps[mode], report["ceiling"], key)
            _latency(row[1], settings, steps[mode])
            for axes in row:
                axes.set_xlabel(label)
                axes.set_xlim(-0.5, len(settings) - 0.5)
        page.suptitle(f"{report['url']}\n{counted(report['photos'], 'photo')}, {report['cpu']}", fontsize=11)
        with aside(path) as part:
            page.savefig(part, dpi=130, format="png")


def _throughput(axes: Axes, settings: list[str], steps: list[dict[str, Any]], ceiling: dict[str, Any] | None, key: str) -> None:
    rates = [step["photos_per_s"] for step in steps]
    bars = axes.bar(settings, rates, width=0.6, color="#92c5de")
    top = max([*rates, 1.0])
    # inside the bars: above them they would cross the ceiling's line
    shares = [f"{rate:.0f}\n{rate / ceiling['photos_per_s']:.0%}" if ceiling else f"{rate:.0f}" for rate in rates]
    axes.bar_label(bars, shares, label_type="center")
    if ceiling:
        top = max(top, ceiling["photos_per_s"])
        kind = f"{ceiling['format']} {ceiling['precision']}, batches of {ceiling['batch_size']}"
        label = f"ceiling, in process: {ceiling['photos_per_s']:.0f} ({kind})"
        axes.axhline(ceiling["photos_per_s"], color="black", linestyle="--", linewidth=1.3, label=label)
    if key == "rate":
        offered = [step["rate"] for step in steps]
        lefts = [i - 0.38 for i in range(len(steps))]
        axes.hlines(offered, lefts, [left + 0.76 for left in lefts], color="#b2182b", linewidth=2, label="offered")
        top = max([top, *offered])
    axes.set(title="Throughput, and its share of the ceiling" if ceiling else "Throughput", ylabel="photos/s")
    axes.set_ylim(0, 1.3 * top)
    if ceiling or key == "rate":
        axes.legend(loc="upper left")


def _latency(axes: Axes, settings: list[str], steps: list[dict[str, Any]]) -> None:
    positions = range(len(settings))
    for name, colour in COLOURS.items():
        values = [math.nan if step[name] is None else step[name] for step in steps]
        axes.plot(positions, values, marker="o", color=colour, label=name.replace("_ms", ""))
    seen = [step[name] for step in steps for name in COLOURS if step[name] is not None] or [1.0]
    axes.set_yscale("log")  # a median of 8 ms and a stall of 900 ms must both be readable
    axes.set_ylim(min(seen) / 2, max(seen) * 3)
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(NullLocator())
    for i, step in enumerate(steps):
        for name, offset in (("p50_ms", -15), ("p99.9_ms", 8)):
            if step[name] is not None:
                figure = f"{step[name]:.0f}" if step[name] >= 10 else f"{step[name]:.1f}"
                axes.annotate(figure, (i, step[name]), (0, offset), textcoords="offset points", ha="center", color=COLOURS[name])
    axes.set_xticks(positions, settings)
    axes.set(title="Latency percentiles", ylabel="ms (logarithmic)")
    axes.legend(loc="upper left", ncols=len(COLOURS), columnspacing=1.0)
