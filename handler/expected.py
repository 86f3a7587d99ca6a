"""What each of an archive's programs answered to the golden photos where it was exported, and how far it may be off elsewhere."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple


class Expected(NamedTuple):
    """A program's answers to all golden photos: probabilities by photo and class, confidence by photo; how far each may be off."""

    probabilities: list[list[float]]
    confidence: list[float]
    tolerance: float


def name_in_float(program: str) -> str:
    """Under which golden.json has an int8 program's answers where the CPU computes it in float32 (cpu.py)."""
    return f"{program} in float32"


def expected_answers(content: Mapping[str, Any]) -> dict[str, Expected]:
    """By program, from golden.json. ValueError naming what is wrong with it.

    Archives of earlier versions have float32's answers alone, and a tolerance as wide as twice what a precision loses.
    """
    try:
        photos = content["photos"]
        if "programs" in content:
            programs = {
                name: Expected(own["probabilities"], own["confidence"], own["tolerance"])
                for name, own in content["programs"].items()
            }
        else:
            float32 = [photo["probabilities"] for photo in photos], [photo.get("confidence", 0.0) for photo in photos]
            programs = {name: Expected(*float32, tolerance) for name, tolerance in content["tolerance"].items()}
        if not photos or not programs:
            raise ValueError(f"golden.json has {len(photos)} photos, and answers of {len(programs)} programs")
        for name, one in programs.items():
            _check(name, one, len(photos))
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"golden.json is damaged: {error!r}") from error
    return programs


def _check(name: str, one: Expected, photos: int) -> None:
    """ValueError, or TypeError, unless there are as many finite answers as photos, all of as many classes."""
    for what, answers in (("probabilities", one.probabilities), ("confidence", one.confidence)):
        if len(answers) != photos:
            raise ValueError(f"golden.json has {what} of {name} for {len(answers)} photos of {photos}")
    if len({len(row) for row in one.probabilities}) != 1:
        raise ValueError(f"golden.json has probabilities of {name} for different numbers of classes")
    numbers = [one.tolerance, *one.confidence, *(p for row in one.probabilities for p in row)]
    if not all(map(math.isfinite, numbers)) or one.tolerance < 0:
        raise ValueError(f"golden.json has an answer or a tolerance of {name} that is no number from 0")
