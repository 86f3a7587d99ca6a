"""Two versions compared on the same photos: what each answers, how often they agree, where they differ, how fast each is."""

import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple, Protocol

import httpx

from handler import data_set
from scripts.backend.torchserve.management import Server
from scripts.backend.torchserve.versions import Golden
from scripts.release.document import fingerprint
from scripts.serving.captured import Captured
from scripts.settings import Settings

SHOWN = 10  # differences; the rest is a long tail of single photos


class Answer(NamedTuple):
    """What a version answers to one photo: its best class, that class's probability, and whether it is sure."""

    label: str
    probability: float
    sure: bool


class Shadow(NamedTuple):
    """What to ask, and whom: the versions are (old, new)."""

    model: str
    versions: tuple[str, str]
    labels: Mapping[str, Collection[str]]  # each version's classes
    golden: Sequence[bytes]  # photos of both archives
    captured: Sequence[bytes]  # the newest first: what the limit cuts off is old
    timeout_s: float  # for each photo
    release: str  # the fingerprint of the document that asks for it
    limit_s: float  # for all of them: those that are left then are not asked


class Version(Protocol):
    """A loaded one."""

    @property
    def golden(self) -> Golden | None:
        """Its archive's golden photos, None if it is not ours."""

    @property
    def folder(self) -> Path:
        """Where its archive is unpacked."""

    @property
    def description(self) -> Mapping[str, Any]:
        """What it says of itself: SeefoodHandler.describe."""


def shadow_of(document: Mapping[str, Any], loaded: Mapping[str, Version], captured: Captured, settings: Settings) -> Shadow:
    """What a release document with a shadow asks for. While the new version is watched as default, the shadow is the old one."""
    versions = document["default"], document["shadow"]["version"]
    old, new = versions[::-1] if document["stage"] == "baking" else versions
    labels = {version: loaded[version].description["labels"] for version in versions}
    # in the old archive lie the old version's right answers, in the new one what it was packed with: each photo once
    both = [one for version in (old, new) if (one := loaded[version].golden)]
    golden = dict.fromkeys(photo for one in both for photo in one.photos if photo)
    limit_s = settings.rollout_s / 2 if document["stage"] == "shadow" else settings.bake_photos_s
    timeout_s = min(settings.shadow_timeout_s, limit_s)
    seen = frozenset().union(*(data_set.load(loaded[version].folder) for version in versions))
    photos = captured.uncorrected(document["shadow"]["photos"], seen, document["model"])
    return Shadow(document["model"], (old, new), labels, list(golden), photos, timeout_s, fingerprint(document), limit_s)


def compare(server: Server, shadow: Shadow, beat: Callable[[], None]) -> dict[str, Any]:
    """{"photos", "agreed", "changes": [[from, to, count]], "refused": {version: count}, "median_ms": {version: ms}} of the
    captured photos; "release": under which document they were asked; "labels", "golden" and "captured": each photo's answers, as
    scripts/rollout/pairs.py reads them.

    `beat` is called after each photo.
    """
    deadline = time.monotonic() + shadow.limit_s
    times_ms: dict[str, list[float]] = {version: [] for version in shadow.versions}

    def ask(photos: Sequence[bytes], times_ms: dict[str, list[float]]) -> list[list[Answer | None]]:
        asked = []
        for photo in photos:
            if time.monotonic() > deadline:
                break
            answers = []
            for version in shadow.versions:
                started = time.perf_counter()
                answers.append(_answer(server, f"{shadow.model}/{version}", photo, shadow.timeout_s))
                times_ms[version].append(1000 * (time.perf_counter() - started))
            asked.append(answers)
            beat()
        return asked

    golden = ask(shadow.golden, {version: [] for version in shadow.versions})
    captured = ask(shadow.captured, times_ms)
    return {"release": shadow.release, **_summary(captured, shadow.versions, times_ms), **_each(shadow, golden, captured)}


def _summary(
    pairs: Sequence[Sequence[Answer | None]], versions: tuple[str, str], times_ms: Mapping[str, list[float]]
) -> dict[str, Any]:
    labels = [[answer and answer.label for answer in pair] for pair in pairs]
    changes = Counter((str(old), str(new)) for old, new in labels if old != new)
    return {
        "photos": len(pairs),
        "agreed": sum(old == new and old is not None for old, new in labels),
        "changes": [[*change, count] for change, count in changes.most_common(SHOWN)],
        "refused": {version: sum(pair[i] is None for pair in labels) for i, version in enumerate(versions)},
        "median_ms": {version: round(median(taken), 1) if taken else None for version, taken in times_ms.items()},
    }


def _each(shadow: Shadow, *asked: Sequence[Sequence[Answer | None]]) -> dict[str, Any]:
    """Each photo's answers [index of the label, probability, sure], None for no answer. Each label stands there once."""
    index: dict[str, int] = {}

    def row(answer: Answer | None) -> list[Any] | None:
        return answer and [index.setdefault(answer.label, len(index)), round(answer.probability, 4), answer.sure]

    golden, captured = ([[row(answer) for answer in pair] for pair in pairs] for pairs in asked)
    own = [[label for label in index if label in shadow.labels[version]] for version in shadow.versions]
    only = [[index[label] for label in one if label not in other] for one, other in (own, own[::-1])]
    return {"versions": list(shadow.versions), "labels": list(index), "only": only, "golden": golden, "captured": captured}


def _answer(server: Server, path: str, photo: bytes, timeout_s: float) -> Answer | None:
    """None if the version refused the photo or did not answer."""
    try:
        response = server.predict(path, photo, 1, timeout_s)
    except httpx.HTTPError:
        return None
    if not response.is_success:
        return None
    answer = response.json()
    return Answer(str(answer["predictions"][0]["label"]), float(answer["predictions"][0]["probability"]), bool(answer["sure"]))
