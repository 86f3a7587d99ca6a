"""The golden answers of an archive: of each program, of earlier versions, and damaged ones."""

import copy
import math

import pytest

from handler.expected import Expected, expected_answers, name_in_float
from scripts.backend.torchserve.versions import Golden, VersionError

OWN = {"probabilities": [[0.7, 0.3], [0.5, 0.5]], "confidence": [0.9, 0.8], "tolerance": 0.0}
PHOTOS = [{"name": "a.jpg", "image": ""}, {"name": "b.jpg", "image": ""}]
CONTENT = {"photos": PHOTOS, "programs": {"int8": OWN, name_in_float("int8"): OWN | {"probabilities": [[0.6, 0.4], [0.5, 0.5]]}}}
BEFORE = {"tolerance": {"f32": 0.1}, "photos": [photo | {"probabilities": [0.7, 0.3], "confidence": 0.9} for photo in PHOTOS]}


def said(*probabilities):
    return [{"index": i, "probability": p} for i, p in enumerate(probabilities)]


def test_answers_are_each_programs_own_and_of_earlier_versions_those_of_float32():
    assert expected_answers(CONTENT)["int8"] == Expected(OWN["probabilities"], OWN["confidence"], 0.0)
    assert expected_answers(CONTENT | {"later": 1, "programs": {"int8": OWN | {"later": 1}}}).keys() == {"int8"}
    assert expected_answers(BEFORE) == {"f32": Expected([[0.7, 0.3]] * 2, [0.9, 0.9], 0.1)}


DAMAGED = {
    "no photos": ({"photos": []}, "has 0 photos"),
    "no programs": ({"programs": {}}, "answers of 0 programs"),
    "programs as a list": ({"programs": []}, "damaged: AttributeError"),
    "neither": ({"programs": None}, "damaged: "),
    "no tolerance": ({"programs": {"int8": {"probabilities": [], "confidence": []}}}, r"damaged: KeyError\('tolerance'\)"),
    "a row too few": ({"programs": {"int8": OWN | {"probabilities": [[1.0, 0.0]]}}}, "probabilities of int8 for 1 photos of 2"),
    "a row too many": ({"programs": {"int8": OWN | {"confidence": [1.0] * 3}}}, "confidence of int8 for 3 photos of 2"),
    "a row too long": (
        {"programs": {"int8": OWN | {"probabilities": [[1.0], [0.5, 0.5]]}}},
        "different numbers of classes",
    ),
    "rows that are none": ({"programs": {"int8": OWN | {"probabilities": [None, None]}}}, "damaged: TypeError"),
    "a flat list": ({"programs": {"int8": OWN | {"probabilities": [0.5, 0.5]}}}, "damaged: TypeError"),
    "nan": ({"programs": {"int8": OWN | {"confidence": [math.nan, 0.8]}}}, "no number from 0"),
    "a tolerance below 0": ({"programs": {"int8": OWN | {"tolerance": -0.1}}}, "no number from 0"),
    "text": ({"programs": {"int8": OWN | {"tolerance": "wide"}}}, "damaged: TypeError"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_golden_answers_are_a_value_error_that_names_what_is_wrong(case):
    change, message = DAMAGED[case]
    with pytest.raises(ValueError, match=message):
        expected_answers(copy.deepcopy(CONTENT) | change)


def test_nearest_of_the_answers_counts_and_a_tolerance_of_0_is_one():
    golden = Golden.of(CONTENT)
    assert golden.num_classes == 2
    assert golden.off(0, said(0.7, 0.3), "int8") == (0.0, 0.0)
    assert golden.off(0, said(0.6, 0.4), "int8") == golden.off(0, said(0.6, 0.4)) == (0.0, 0.0)  # in float32
    off, tolerance = golden.off(0, said(0.75, 0.25), "int8")
    assert (round(off, 9), tolerance) == (0.05, 0.0)
    assert golden.off(0, said(0.7, math.nan), "int8")[0] is math.nan
    with pytest.raises(VersionError, match="golden.json has no answers of the program bf16"):
        golden.off(0, said(0.7, 0.3), "bf16")
