"""Two versions asked the same photos, one after the other: how often they agree, where not, and how fast each is."""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import httpx

from scripts.archive.build import MODEL
from scripts.backend.torchserve.management import Server

TIMEOUT_S = 30
SHOWN = 10


def compare(server: Server, photos: Sequence[bytes], old: str, new: str, beat: Callable[[], None] = lambda: None) -> dict[str, Any]:
    """{"photos", "agreed", "changes": [[from, to, count]], "refused": {version: count}, "median_ms": {version: ms}}."""
    changes: Counter[tuple[str, str]] = Counter()
    refused, times = {old: 0, new: 0}, {old: list[float](), new: list[float]()}
    agreed = 0
    for photo in photos:
        best = {}
        for version in (old, new):
            started = time.perf_counter()
            best[version] = _best(server, version, photo)
            times[version].append(1000 * (time.perf_counter() - started))
            refused[version] += best[version] is None
        agreed += best[old] == best[new] and best[old] is not None
        if best[old] != best[new]:
            changes[str(best[old]), str(best[new])] += 1
        beat()
    return {
        "photos": len(photos),
        "agreed": agreed,
        "changes": [[*change, count] for change, count in changes.most_common(SHOWN)],
        "refused": refused,
        "median_ms": {version: round(median(taken), 1) if taken else None for version, taken in times.items()},
    }


def _best(server: Server, version: str, photo: bytes) -> str | None:
    """The first dish of a version's answer, None if it refused the photo or did not answer."""
    try:
        response = server.predict(f"{MODEL}/{version}", photo, 1, TIMEOUT_S)
    except httpx.HTTPError:
        return None
    return str(response.json()["predictions"][0]["label"]) if response.is_success else None
