"""The release document: what is read, made and refused, and which instances are canaries."""

import json
import math
from datetime import UTC, datetime, timedelta

import pytest

from scripts.release.document import ReleaseError, canaries, default_of, fingerprint, make, parse, write


def entry(version):
    return {"archive": f"seefood-{version}.mar", "sha256": "0" * 64}


VERSIONS = {version: entry(version) for version in ("1.0.0", "1.1.0")}


def text(**changes):
    """A document's text; None takes a key away."""
    document = {"model": "seefood", "versions": VERSIONS, "default": "1.0.0", "stage": "released"}
    document |= {"written": "2026-11-21T14:00:00+00:00", "by": "me@here", "why": "a test", **changes}
    return json.dumps({key: value for key, value in document.items() if value is not None})


def test_document_that_is_made_is_read_again_and_says_who_wrote_it_when():
    canary = {"version": "1.1.0", "percent": 12.5}
    document = make(VERSIONS, "1.0.0", "canary", "to see", canary=canary)
    assert parse(write(document)) == document
    assert (document["default"], document["canary"], document["why"]) == ("1.0.0", canary, "to see")
    assert "@" in document["by"]
    assert timedelta() <= datetime.now(UTC) - datetime.fromisoformat(document["written"]) < timedelta(minutes=1)
    assert make(VERSIONS, "1.0.0", "released", "so", "serve.py")["by"] == "serve.py"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("{", "invalid release document, not JSON: "),
        ("[]", r"\$: \[\] is not of type 'object'"),
        (text(why=None), r"\$: 'why' is a required property"),
        (text(extra=1), r"\$: Additional properties are not allowed \('extra' was unexpected\)"),
        (text(model="Pizza"), r"\$\.model: 'Pizza' does not match"),
        (text(stage="new"), r"\$\.stage: 'new' is not one of"),
        (text(default="1.0"), r"\$\.default: '1\.0' does not match"),
        (text(versions={}), r"\$\.versions: {}"),
        (text(versions={"1.0.0": {**entry("1.0.0"), "sha256": "0"}}), r"\$\.versions\S+\.sha256: '0' does not match"),
        (text(versions={"1.0.0": {**entry("1.0.0"), "archive": "../x.mar"}}), r"\$\.versions\S+\.archive: '\.\./x\.mar' does not"),
        (text(canary={"version": "1.1.0", "percent": 100}), r"\$\.canary\.percent: 100 is greater"),
        (text(canary={"version": "1.1.0", "percent": 0}), r"\$\.canary\.percent: 0 is less"),
        (text(shadow={"version": "1.1.0", "photos": 0}), r"\$\.shadow\.photos: 0 is less"),
        (text(stage="new", model="../x"), r"\$\.model: .*; \$\.stage: "),
        (text(default="2.0.0"), r"default version is 2\.0\.0, its versions are \['1\.0\.0', '1\.1\.0'\]"),
        (text(canary={"version": "2.0.0", "percent": 5}), r"canary version is 2\.0\.0, its versions are"),
        (text(shadow={"version": "2.0.0", "photos": 5}), r"shadow version is 2\.0\.0, its versions are"),
        (text(canary={"version": "1.0.0", "percent": 5}), r"canary is its default version, 1\.0\.0"),
        (text(versions={"1.0.0": entry("1.1.0")}), r"archive of 1\.0\.0 is seefood-1\.1\.0\.mar, expected seefood-1\.0\.0\.mar"),
        (
            text(model="flowers"),
            r"archive of 1\.0\.0 is seefood-1\.0\.0\.mar, expected flowers-1\.0\.0\.mar as the model is flowers",
        ),
        pytest.param(text(versions=VERSIONS | {"01.0.0": entry("01.0.0")}), r"01\.0\.0"),
        (text(canary={"version": "1.1.0", "percent": math.nan}), "NaN"),
        pytest.param("[" * 100_000, "invalid release document, not JSON: ", id="nested too deeply"),
    ],
)
def test_invalid_document_is_refused_with_the_place(content, problem):
    with pytest.raises(ReleaseError, match=problem):
        parse(content)


def test_a_document_is_of_the_model_of_its_archives():
    entries = {version: {"archive": f"wild-flowers_2-{version}.mar", "sha256": "0" * 64} for version in ("1.0.0", "1.1.0-rc.1")}
    document = make(entries, "1.0.0", "released", "any name will do")
    assert parse(write(document))["model"] == "wild-flowers_2"
    for others, reason in [
        (VERSIONS | {"1.1.0": entries["1.1.0-rc.1"]}, "a release is of one model, its archives are seefood-1.0.0.mar, wild-flow"),
        ({}, "its archives are none"),
        ({"1.0.0": {"archive": "model.mar", "sha256": "0" * 64}}, "model.mar is not an archive's name"),
    ]:
        with pytest.raises(ReleaseError, match=reason):
            make(others, "1.0.0", "released", "a mixture")


def test_each_document_has_a_fingerprint_of_its_own():
    document = parse(text())
    assert fingerprint(document) == fingerprint(dict(reversed(document.items())))
    others = [text(default="1.1.0"), text(why="other"), text(canary={"version": "1.1.0", "percent": 5})]
    assert len({fingerprint(parse(other)) for other in [text(), *others]}) == 4


INSTANCES = [f"host-{i}-8080" for i in range(40)]


@pytest.mark.parametrize(
    ("count", "percent", "chosen"),
    [(3, 33, 0), (3, 34, 1), (10, 10, 1), (10, 29, 2), (100, 7, 7), (100, 29, 29), (1, 99, 0), (0, 50, 0)],
)
def test_share_of_canaries_is_rounded_down(count, percent, chosen):
    assert len(canaries([f"i-{i}" for i in range(count)], percent)) == chosen


def test_canaries_are_the_same_wherever_they_are_chosen_and_more_percent_only_add_some():
    before = []
    for percent in range(1, 100):
        chosen = canaries(INSTANCES, percent)
        assert chosen[: len(before)] == before
        assert canaries([*reversed(INSTANCES), *INSTANCES], percent) == chosen
        before = chosen
    assert len(before) == 39
    # these are what every release of this code must choose, or instances of two releases would disagree
    assert canaries(["a", "b", "c", "d"], 50) == ["d", "c"]


def test_canaries_alone_make_the_canary_their_default_and_all_others_the_default():
    document = parse(text(canary={"version": "1.1.0", "percent": 25}))
    defaults = {instance: default_of(document, instance, INSTANCES) for instance in INSTANCES}
    assert {instance for instance, version in defaults.items() if version == "1.1.0"} == set(canaries(INSTANCES, 25))
    assert set(defaults.values()) == {"1.0.0", "1.1.0"}
    # an instance that has not written its status yet counts itself
    first, *others = canaries(INSTANCES, 25)
    assert default_of(document, first, others) == default_of(document, first, [first, *others])
    assert {default_of(parse(text()), instance, INSTANCES) for instance in INSTANCES} == {"1.0.0"}
