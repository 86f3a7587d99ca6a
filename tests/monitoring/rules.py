"""The shipped rules under promtool: series as a server would show them, and whether an alert fires at a time."""

import json
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import ROOT

PROMETHEUS = ROOT / "scripts" / "monitoring" / "prometheus"
RULES = sorted((PROMETHEUS / "rules").glob("*.yml"))
STEP_S = 10  # scrapes and evaluations, as prometheus.yml has them

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not here: it comes with Prometheus, Debian's package prometheus"
)


def promtool(*arguments: object) -> str:
    """What it printed; it must succeed."""
    done = subprocess.run(["promtool", *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def gauge(*parts: tuple[float | None, int]) -> list[float | None]:
    """A scrape every 10 s of a gauge that has each value for so many seconds; None: nothing came."""
    return [value for value, seconds in parts for _ in range(seconds // STEP_S)]


def counter(*parts: tuple[float, int]) -> list[float]:
    """... of a counter that rises so much a second for so many seconds."""
    values, now = list[float](), 0.0
    for per_s, seconds in parts:
        for _ in range(seconds // STEP_S):
            now += per_s * STEP_S
            values.append(now)
    return values


@dataclass
class Case:
    """An alert, series by name (labels in braces, job and instance excepted), and the seconds at which it fires and does not."""

    alert: str
    series: Mapping[str, Sequence[float | None]]
    fires: Sequence[int] = ()
    quiet: Sequence[int] = ()

    def as_test(self) -> dict[str, object]:
        """For promtool, as ALERTS shows alerts: its own form would want each annotation word by word."""
        firing = f'count(ALERTS{{alertname="{self.alert}", alertstate="firing"}}) or vector(0)'
        expected = [(second, 1) for second in self.fires] + [(second, 0) for second in self.quiet]
        return {
            "interval": f"{STEP_S}s",
            "input_series": [{"series": _labelled(name), "values": _text(values)} for name, values in self.series.items()],
            "promql_expr_test": [
                {"expr": firing, "eval_time": f"{second}s", "exp_samples": [{"labels": "{}", "value": value}]}
                for second, value in expected
            ],
        }


def _labelled(name: str) -> str:
    name, _, labels = name.partition("{")
    return f'{name}{{job="seefood", instance="a:8082"{", " + labels if labels else "}"}'


def _text(values: Sequence[float | None]) -> str:
    return " ".join("_" if value is None else f"{value:g}" for value in values)


def check(cases: Sequence[Case], folder: Path) -> None:
    """Have promtool evaluate the shipped rules over the cases' series."""
    tests = [case.as_test() for case in cases]
    content = {"rule_files": [str(path) for path in RULES], "evaluation_interval": f"{STEP_S}s", "tests": tests}
    file = folder / "test.yml"
    file.write_text(json.dumps(content))  # YAML holds JSON
    promtool("test", "rules", file)
