"""What was measured: a table, its notes, bench.json and bench.png."""

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scripts.atomic import write_json
from scripts.bench.result import PERCENTILES, Result
from scripts.phrases import counted


def step_name(result: Result) -> str:
    """A step's name in the table."""
    return counted(int(result.setting), "connection") if result.mode == "closed" else f"{result.setting:g}/s offered"


def table(results: Sequence[Result], ceiling: dict[str, Any] | None) -> str:
    """One line a step, below one for the ceiling."""
    titles = ["", "photos/s", "of ceiling", *(f"p{p:g} ms" for p in PERCENTILES), "generator", "errors"]
    rows = [titles]
    if ceiling:
        alone = f"{ceiling['latency_ms']:.1f}"
        rows.append(["in process", f"{ceiling['photos_per_s']:.1f}", "1.00", alone, *[""] * len(PERCENTILES)])
    for result in results:
        share = f"{result.throughput / ceiling['photos_per_s']:.2f}" if ceiling else "-"
        latencies = ["-" if math.isnan(ms := result.percentile(p)) else f"{ms:.1f}" for p in PERCENTILES]
        errors = ", ".join(f"{count} x {kind}" for kind, count in sorted(result.errors.items())) or "none"
        rows.append([step_name(result), f"{result.throughput:.1f}", share, *latencies, f"{result.busy_share:.0%} busy", errors])
    widths = [max(len(row[i]) for row in rows if i < len(row)) for i in range(len(titles))]
    lines = []
    for row in rows:
        cells = [cell.rjust(width) for cell, width in zip(row, widths, strict=False)]
        cells[0] = row[0].ljust(widths[0])
        cells[-1] = row[-1] if len(row) == len(titles) else ""
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def notes(results: Sequence[Result], ceiling: dict[str, Any] | None) -> list[str]:
    """What the table does not show."""
    lines = []
    if ceiling:
        lines.append(
            f"in process: {ceiling['archive']}, {ceiling['format']} {ceiling['precision']}, batches of {ceiling['batch_size']}; "
            "its latency is that of one photo alone"
        )
    for result in results:
        if result.bottleneck():
            lines.append(f"{step_name(result)}: the load generator is the bottleneck: {result.bottleneck()}")
        if result.errors:
            lines.append(f"{step_name(result)}: the first error was {result.first_error}")
    return lines


def to_json(result: Result, ceiling: dict[str, Any] | None) -> dict[str, Any]:
    """A step as bench.json holds it; None for what could not be measured."""
    latencies = {f"p{p:g}_ms": result.percentile(p) if result.latencies_ms else None for p in PERCENTILES}
    return {
        "mode": result.mode,
        "concurrency" if result.mode == "closed" else "rate": result.setting,
        "seconds": result.seconds,
        "photos_per_s": result.throughput,
        "of_ceiling": result.throughput / ceiling["photos_per_s"] if ceiling else None,
        "answers": len(result.latencies_ms),
        **latencies,
        "errors": dict(result.errors),
        "first_error": result.first_error,
        "load_generator": {"cpu_share": result.cpu_share, "busy_share": result.busy_share, "late_ms": result.late_ms},
        "bottleneck": result.bottleneck(),
    }


def write(report: dict[str, Any], out: Path) -> list[str]:
    """The files that were written into `out`: bench.json, and bench.png where matplotlib is installed."""
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "bench.json", report)
    try:
        from scripts.bench.plot import plot
    except ImportError:
        print("no bench.png: matplotlib is not installed (make setup installs it)", file=sys.stderr)
        return [str(out / "bench.json")]
    plot(report, out / "bench.png")
    return [str(out / "bench.json"), str(out / "bench.png")]
