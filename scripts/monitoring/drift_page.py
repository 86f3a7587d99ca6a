"""The page of `make drift`: each signal's recent values beside the reference's. It stands alone: no script, nothing is fetched."""

import html
import itertools
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from scripts.atomic import write_text
from scripts.drift.statistics import THRESHOLD, Compared, drifted
from scripts.page_style import style_of
from scripts.phrases import printable

STYLE = Path(__file__).with_name("drift_page.css")
POLICY = "default-src 'none'; style-src 'unsafe-inline'"  # whatever a name may hold, nothing runs and nothing is fetched
WIDTH, HEIGHT, BELOW = 240, 90, 16  # of a plot, in its own units; BELOW of the height is the axis
MOST_CLASSES = 12  # in a plot
MEANINGS = {
    "class": "predicted classes",
    "top1": "probability of the best class",
    "confidence": "how like the training photos; low is unsure",
    "entropy": "spread of the probabilities, nats",
    "brightness": "mean grey, 0 to 1",
    "contrast": "spread of the grey",
    "saturation": "strength of the colours, 0 to 1",
    "redness": "red less blue",
    "sharpness": "log of the second differences",
    "flatness": "share of pixels without detail",
    "megapixels": "in the scale in which it was decoded",
    "aspect": "width by height",
    "t2": "distance of the features within the usual directions",
    "residual": "distance of the features outside of them",
}


class Line(NamedTuple):
    """What an instance, or a folder of photos, showed of a version in a window. `labels` are empty where only indices are known."""

    where: str
    version: str
    window: int
    signals: dict[str, Compared]
    accuracy: float
    labels: Sequence[str]

    def values(self) -> dict[str, float]:
        """-log10 p by signal."""
        return {signal: compared.value for signal, compared in self.signals.items()}


def write_page(lines: Sequence[Line], path: Path) -> None:
    """Write the page, whole or not at all. OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, "".join(_page(lines)))


def _page(lines: Sequence[Line]) -> Iterator[str]:
    bad = sum(bool(drifted(line.values())) for line in lines)
    verdict = f"Drift in {bad} of {len(lines)} windows" if bad else "No signal has drifted"
    yield (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<meta name="color-scheme" content="light dark">\n'
        f"<title>Drift</title>\n<style>\n{style_of(STYLE)}</style>\n</head>\n<body>\n<header>\n<h1>{verdict}</h1>\n"
        f"<p>Recent photos and answers beside the reference profile, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC. The number is "
        f"&minus;log<sub>10</sub> of a p-value; over {THRESHOLD:g} is drift.</p>\n"
        '<p class="key"><span class="swatch reference"></span> reference <span class="swatch found"></span> recent</p>\n'
        "</header>\n<main>\n"
    )
    for line in lines:
        yield from _section(line)
    yield "</main>\n</body>\n</html>\n"


def _section(line: Line) -> Iterator[str]:
    yield (
        f"<section>\n<h2>{_text(line.where)} <small>{_text(line.version)}, last {line.window:,} photos at most, "
        f'estimated accuracy {line.accuracy:.1%}</small></h2>\n<div class="plots">\n'
    )
    bad = drifted(line.values())
    for signal, compared in sorted(line.signals.items(), key=lambda pair: -pair[1].value):
        mark = ' <span class="drift">drift</span>' if signal in bad else ""
        yield (
            f"<figure><figcaption><b>{_text(signal)}</b> {compared.value:.1f}{mark}"
            f"<small>{_text(MEANINGS.get(signal, ''))}</small></figcaption>{_plot(signal, compared, line.labels)}</figure>\n"
        )
    yield "</div>\n</section>\n"


def _plot(signal: str, compared: Compared, labels: Sequence[str]) -> str:
    """Two bars for each bin: the share of the reference's values, and of the recent ones."""
    names = _class_names(compared, labels) if signal == "class" else _ranges(compared.edges)
    before, now = (_shares(counts) for counts in (compared.reference, compared.found))
    if signal == "class":  # the most frequent ones
        used = [k for k in range(len(names)) if before[k] or now[k]]
        chosen = sorted(sorted(used, key=lambda k: -max(before[k], now[k]))[:MOST_CLASSES])
    else:
        chosen = list(range(len(names)))
    most = max(max(before[k], now[k]) for k in chosen) or 1
    step, tall, bars = WIDTH / len(chosen), HEIGHT - BELOW, []
    for place, k in enumerate(chosen):
        for share, kind, offset in ((before[k], "reference", 0.08), (now[k], "found", 0.5)):
            height = tall * share / most
            bars.append(
                f'<rect class="{kind}" x="{(place + offset) * step:.1f}" y="{tall - height:.1f}" width="{0.42 * step:.1f}" '
                f'height="{height:.1f}"><title>{_text(names[k])}: {kind} {share:.0%}</title></rect>'
            )
    alt = "; ".join(f"{names[k]}: {before[k]:.0%} before, {now[k]:.0%} now" for k in chosen)
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{_text(alt)}"><line x1="0" x2="{WIDTH}" y1="{tall}" '
        f'y2="{tall}"/>{"".join(bars)}{_axis(signal, compared, step)}</svg>'
    )


def _axis(signal: str, compared: Compared, step: float) -> str:
    """The edges between bins; classes have their names in the tooltips alone, as there may be many."""
    if signal == "class":
        return f'<text x="0" y="{HEIGHT - 3}">one pair a class, the rare ones together</text>'
    texts = [f"{edge:.3g}" for edge in compared.edges]  # both sides of a value that is a bin of its own are the same
    return "".join(
        f'<text x="{(place + 1) * step:.1f}" y="{HEIGHT - 3}" text-anchor="middle">{text}</text>'
        for place, text in enumerate(texts)
        if text not in texts[:place]
    )


def _class_names(compared: Compared, labels: Sequence[str]) -> list[str]:
    indices = [int(edge) for edge in compared.edges]
    return [labels[index] if index < len(labels) else f"class {index}" for index in indices] + ["others"]


def _ranges(edges: Sequence[float]) -> list[str]:
    if not edges:
        return ["all"]
    between = [f"{a:.3g} to {b:.3g}" for a, b in itertools.pairwise(edges)]
    return [f"below {edges[0]:.3g}", *between, f"above {edges[-1]:.3g}"]


def _shares(counts: Sequence[int]) -> list[float]:
    total = sum(counts) or 1
    return [count / total for count in counts]


def _text(value: str) -> str:
    return html.escape(printable(value))
