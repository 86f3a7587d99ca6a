"""What each of an archive's programs answered to the golden photos where it was exported, and how far it may be off elsewhere."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple


class Expected(NamedTuple):
    """A program's answers to all golden photos: probabilities by photo and class, confidence by photo; how far each may be off."""

    probabilities: list[list[float]]
    confidence: list[float]
    tolerance: float


def expected_answers(content: Mapping[str, Any]) -> dict[str, Expected]:
    """By program, from golden.json. KeyError, TypeError or AttributeError if that is none.

    Archives of earlier versions have float32's answers alone, and a tolerance as wide as twice what a precision loses.
    """
    if "programs" in content:
        return {name: Expected(**own) for name, own in content["programs"].items()}
    photos = content["photos"]
    float32 = [photo["probabilities"] for photo in photos], [photo.get("confidence", math.nan) for photo in photos]
    return {name: Expected(*float32, tolerance) for name, tolerance in content["tolerance"].items()}
