"""A folder's photos as an archive's handler measures them, for drift; and what of the folder could not be measured, by why."""

from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from handler.captured import PHOTO, answered_by
from scripts.drift.statistics import LEAST
from scripts.folders import walk
from scripts.phrases import counted, printable

BATCH = 8
MOST_REFUSED = 0.1  # of the photos: what is left then no longer stands for all of them
BUSY = 503  # of a photo that was too costly beside the others of its batch
NO_PHOTO = (400, 415)  # an empty file, or of a format that is not read: notes and lists beside photos, mostly
REASONS = {413: "over a limit", 422: "broken", BUSY: "too costly to decode in time"}


def measure(handler: Any, folder: Path, model: str | None = None) -> tuple[np.ndarray, Counter[str]]:
    """(COLUMNS of each photo, float32 (N, C); the others by why). Of captured photos only those that `model` answered.

    ValueError if they are too few, or too many are refused.
    """
    others, refused, rows = Counter[str](), 0, []
    for batch in _batches(_answered(walk(folder, others), model, others), others):
        outcomes = _decoded(handler, batch)
        read = [outcome for outcome in outcomes if not isinstance(outcome, Exception)]
        if read:
            crops = [outcome.crop for outcome in read]
            rows.append(handler.profile.measure(crops, [one.size for one in read], handler.inference(crops)))
        for error in (outcome for outcome in outcomes if isinstance(outcome, Exception)):
            status = getattr(error, "status", 422)
            refused += status not in NO_PHOTO
            others["no photo, or of a format that is not read" if status in NO_PHOTO else REASONS.get(status, str(error))] += 1
    refused += sum(count for why, count in others.items() if why.startswith("not readable"))
    count = sum(map(len, rows))
    why = f" ({in_words(others)})" if others else ""
    if refused > MOST_REFUSED * (count + refused):
        raise ValueError(
            f"{refused} of {counted(count + refused, 'photo')} in {printable(str(folder))} cannot be measured{why}, at most "
            f"{MOST_REFUSED:.0%} may be: what is left does not stand for all; mend those photos, or take them out"
        )
    if count < LEAST:
        raise ValueError(f"{printable(str(folder))} holds {counted(count, 'photo')} to measure{why}, at least {LEAST} are needed")
    return np.concatenate(rows), others


def in_words(others: Counter[str]) -> str:
    """The counts, the largest first."""
    return ", ".join(f"{count} {printable(why)}" for why, count in sorted(others.items(), key=lambda one: (-one[1], one[0])))


def _answered(files: Iterator[Path], model: str | None, others: Counter[str]) -> Iterator[Path]:
    """The files but for captured photos that another model answered."""
    for path in files:
        by = answered_by(path) if path.suffix == PHOTO else None
        if model is not None and by not in (None, model):
            others[f"answered by {by}"] += 1
        else:
            yield path


def _batches(files: Iterator[Path], others: Counter[str]) -> Iterator[list[bytes]]:
    contents = (content for path in files if (content := _content(path, others)) is not None)
    while batch := list(islice(contents, BATCH)):
        yield batch


def _content(path: Path, others: Counter[str]) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError as error:
        others[f"not readable ({error.strerror})"] += 1
        return None


def _decoded(handler: Any, batch: list[bytes]) -> list[Any]:
    """Each photo's outcome; one that was too costly beside others is decoded by itself."""
    outcomes, _ = handler.decoders.decode(batch)
    for i, outcome in enumerate(outcomes):
        if getattr(outcome, "status", None) == BUSY:
            outcomes[i] = handler.decoders.decode([batch[i]])[0][0]
    return list(outcomes)
