"""Photos that a server kept (handler/captured.py), with their answers and feedback, from its folder or from S3."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import groupby
from typing import Any

from handler.captured import ANSWER, FEEDBACK, PHOTO, PLACE, model_of
from scripts.collection.source import Fetched, Found
from scripts.collection.sources.folder import files_of, place_of
from scripts.predict.photo import Photo, UnreadError

ENDS = (PHOTO, ANSWER, FEEDBACK)
READERS = 16  # answers are read at a time
Files = Mapping[str, Photo]  # of one photo, by the ends of their names


class Captured:
    """See the module. `reviewed`: only photos on which feedback was given; `model`: only those that it answered."""

    kind = "captured"

    def __init__(self, address: str, reviewed: bool = False, model: str | None = None) -> None:
        """ValueError, see place_of."""
        self.address, self.reviewed, self.model = place_of(address), reviewed, model

    def found(self, passed: Counter[str]) -> Iterator[Found]:
        """See Source. A photo on which feedback came since has another stamp.

        ValueError if several models answered, and none is named.
        """
        photos = list(self._photos(passed))
        # all answers, not only new ones: what one model answered must not go where another's photos went before
        with ThreadPoolExecutor(READERS) as pool:
            models = list(pool.map(_model, photos))
        answered = Counter(filter(None, models))
        if self.model is None and len(answered) > 1:
            counts = ", ".join(f"{name} ({count})" for name, count in sorted(answered.items()))
            raise ValueError(
                f"several models answered the photos of {self.address}, {counts}: MODEL={min(answered)} takes those of one"
            )
        for files, model in zip(photos, models, strict=True):
            if self.model is not None and model not in (None, self.model):
                passed[f"answered by {model}"] += 1
                continue
            stamp = " ".join(files[end].stamp() for end in (PHOTO, FEEDBACK) if end in files)
            yield Found(files[PHOTO].name, stamp, partial(_fetch, files))

    def _photos(self, passed: Counter[str]) -> Iterator[Files]:
        """The files of each photo that may be taken."""
        for _, group in groupby(files_of(self.address, passed), key=lambda file: _split(file.name)[0]):
            files = {_split(file.name)[1]: file for file in group}
            if PHOTO not in files:
                if FEEDBACK in files:  # the photo has expired before anybody collected it
                    passed["feedback whose photo is gone"] += 1
            elif ANSWER not in files and PLACE.fullmatch(files[PHOTO].name.split("/")[-2]):
                passed["without its answer yet"] += 1  # the photo is written first
            elif self.reviewed and FEEDBACK not in files:
                passed["without feedback"] += 1
            else:
                yield files


def _model(files: Files) -> str | None:
    """The model that answered a photo; None where that is not known, for whatever reason: its own turn says it."""
    try:
        return model_of(files[ANSWER].read()) if ANSWER in files else None
    except UnreadError:
        return None


def _split(name: str) -> tuple[str, str]:
    """(the part of a name that a photo's files share, the rest): all of another file's name is its own."""
    end = next((end for end in ENDS if name.endswith(end)), "")
    return (name.removesuffix(end), end) if end else (name, "")


def _fetch(files: Files) -> Fetched:
    answer, said = _read(files, ANSWER), _read(files, FEEDBACK)
    content = files[PHOTO].read()
    return Fetched(
        content,
        at=_text(answer, "at"),
        id=_text(answer, "id") or _text(said, "id"),
        answer=answer,
        feedback=_text(said, "label"),
        given=said is not None,
    )


def _read(files: Files, end: str) -> dict[str, Any] | None:
    """The content of a JSON file; None if there is none. UnreadError if it is broken."""
    if end not in files:
        return None
    try:
        content = json.loads(files[end].read())
    except (ValueError, RecursionError) as error:
        raise UnreadError(f"its {end} is not JSON: {error}", 422) from error
    if not isinstance(content, dict):
        raise UnreadError(f"its {end} is no object of JSON", 422)
    return content


def _text(content: Mapping[str, Any] | None, key: str) -> str | None:
    value = (content or {}).get(key)
    return value if isinstance(value, str) else None
