"""What a source is: a small class that finds photos, and fetches one only when it is asked for."""

import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

MAX_TITLE = 300  # characters, as Reddit has it


@dataclass(frozen=True, slots=True)
class Fetched:
    """A photo's bytes, not checked yet, and what its source says of it: see batch.Collected."""

    content: bytes
    at: str | None = None
    title: str | None = None
    id: str | None = None
    answer: dict[str, Any] | None = None
    feedback: str | None = None
    given: bool = False


@dataclass(frozen=True, slots=True)
class Found:
    """A photo that may be new. `stamp` is another string once it has changed; "" where nothing is known of it.

    `fetch` raises UnreadError for what is wrong with this photo, another PredictError for what is wrong with all.
    """

    origin: str
    stamp: str
    fetch: Callable[[], Fetched]


class Source(Protocol):
    """Photos from one place. `kind` is part of the batch's name, `address` is the same from whatever folder it is given."""

    kind: str
    address: str

    def found(self, passed: Counter[str]) -> Iterator[Found]:
        """The photos; `passed` counts by kind what is none. PredictError, ValueError or OSError if they cannot be listed."""


def clean_title(text: str | None) -> str | None:
    """A title in one line, without characters that control or hide; None if nothing is left."""
    if not text:
        return None
    spaced = "".join(" " if letter.isspace() else letter for letter in unicodedata.normalize("NFC", text))
    shown = "".join(letter for letter in spaced if not unicodedata.category(letter).startswith("C"))
    return " ".join(shown.split())[:MAX_TITLE].strip() or None
