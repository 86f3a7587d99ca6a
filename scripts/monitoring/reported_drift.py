"""The drift that an instance reports in its status document, which another program may have written."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from scripts.drift.statistics import Compared
from scripts.monitoring.drift_page import Line
from scripts.phrases import printable


def lines_of(name: str, status: Mapping[str, Any]) -> Iterator[Line]:
    """Of each version and window. ValueError naming the instance whose document has something else there."""
    for version, figures in sorted(status["figures"].items()):
        try:
            lines = [_line(name, version, window, found) for window, found in figures.get("drift", {}).items()]
        except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
            why = f"{type(error).__name__}: {printable(str(error)[:200])}"
            raise ValueError(
                f"the status document of {printable(name)} has no drift that can be read of version {printable(version)} ({why}): "
                "another version of this project or another program wrote it; update that instance, or remove the document"
            ) from error
        yield from lines


def _line(name: str, version: str, window: str, found: Mapping[str, Any]) -> Line:
    signals = {signal: _compared(one) for signal, one in found["signals"].items()}
    return Line(name, version, int(window), signals, _number(found["estimated_accuracy"]), ())


def _compared(found: Mapping[str, Any]) -> Compared:
    one = Compared(**found)
    for number in (one.value, *one.edges, *one.reference, *one.found):
        _number(number)
    if not len(one.edges) + 1 == len(one.reference) == len(one.found):
        raise ValueError(f"{len(one.edges)} edges with {len(one.reference)} and {len(one.found)} counts, expected one count more")
    return one


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{value!r}, expected a number")
    return float(value)
