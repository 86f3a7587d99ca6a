"""Two versions compared on the same photos: how often they agree, where they differ, and how fast each is."""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import httpx

from scripts.backend.torchserve.management import Server

SHOWN = 10  # differences; the rest is a long tail of single photos


def compare(
    server: Server, model: str, photos: Sequence[bytes], versions: tuple[str, str], timeout_s: float, beat: Callable[[], None]
) -> dict[str, Any]:
    """{"photos", "agreed", "changes": [[from, to, count]], "refused": {version: count}, "median_ms": {version: ms}}.

    `versions` are (old, new). `beat` is called after each photo.
    """
    changes: Counter[tuple[str, str]] = Counter()
    refused, times_ms = dict.fromkeys(versions, 0), {version: list[float]() for version in versions}
    agreed = 0
    for photo in photos:
        labels: list[str | None] = []
        for version in versions:
            started = time.perf_counter()
            label = _top1(server, f"{model}/{version}", photo, timeout_s)
            times_ms[version].append(1000 * (time.perf_counter() - started))
            refused[version] += label is None
            labels.append(label)
        old, new = labels
        agreed += old == new and old is not None
        if old != new:
            changes[str(old), str(new)] += 1
        beat()
    return {
        "photos": len(photos),
        "agreed": agreed,
        "changes": [[*change, count] for change, count in changes.most_common(SHOWN)],
        "refused": refused,
        "median_ms": {version: round(median(taken), 1) if taken else None for version, taken in times_ms.items()},
    }


def _top1(server: Server, path: str, photo: bytes, timeout_s: float) -> str | None:
    """The label of the best class, None if the version refused the photo or did not answer."""
    try:
        response = server.predict(path, photo, 1, timeout_s)
    except httpx.HTTPError:
        return None
    return str(response.json()["predictions"][0]["label"]) if response.is_success else None
