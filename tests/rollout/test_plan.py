"""What a rollout and a rollback will do, decided before anything is changed."""

from pathlib import Path

import pytest

from scripts.release.document import make, write
from scripts.rollout.plan import Candidate, Options, plan_back, plan_start


def entry(version, model="seefood"):
    return {"archive": f"{model}-{version}.mar", "sha256": "0" * 64}


def released(version, *others, stage="released", **parts):
    return make({each: entry(each) for each in (version, *others)}, version, stage, "a test", **parts)


NEW = Candidate(Path("seefood-2.0.0.mar"), "seefood", "2.0.0", entry("2.0.0"))
WATCHED = ("baking", "2.0.0", ["1.0.0", "2.0.0"])
SHADOW = ("shadow", "1.0.0", ["1.0.0", "2.0.0"])


def steps(plan):
    return [(document["stage"], document["default"], sorted(document["versions"])) for document in plan.documents]


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (Options(), [WATCHED, ("released", "2.0.0", ["2.0.0"])]),
        (Options(keep=True), [WATCHED, ("released", "2.0.0", ["1.0.0", "2.0.0"])]),
        (Options(photos=5), [SHADOW, WATCHED, ("released", "2.0.0", ["2.0.0"])]),
        (Options(canary=50), [("canary", "1.0.0", ["1.0.0", "2.0.0"])]),
        (Options(canary=50, photos=5), [SHADOW, ("canary", "1.0.0", ["1.0.0", "2.0.0"])]),
        (Options(unwatched=True), [WATCHED, ("released", "2.0.0", ["2.0.0"])]),  # as it is watched all the same
    ],
)
def test_documents_of_a_rollout_in_their_order(asked, expected):
    plan = plan_start("release.json", released("1.0.0"), {"a", "b"}, NEW, asked)
    assert steps(plan) == expected
    assert (plan.watched, plan.archive, plan.old, plan.new) == (True, NEW.path, "1.0.0", "2.0.0")
    assert len(plan.canaries) == (1 if asked.canary else 0)
    assert {document["model"] for document in plan.documents} == {"seefood"}


@pytest.mark.parametrize(("before", "asked"), [(None, Options()), (released("1.0.0"), Options(unwatched=True))])
def test_without_instances_one_document_is_written_and_nothing_is_waited_for(before, asked):
    plan = plan_start("release.json", before, set(), NEW, asked)
    assert steps(plan) == [("released", "2.0.0", ["2.0.0"])]
    assert not plan.watched
    assert plan.documents[0]["why"].endswith(", unwatched")


def test_first_release_with_instances_is_waited_for():
    plan = plan_start("release.json", None, {"a"}, NEW, Options())
    assert steps(plan) == [("released", "2.0.0", ["2.0.0"])]
    assert plan.watched


def test_a_canary_is_promoted_and_a_version_that_was_left_baking_is_rolled_out_again():
    for before in (
        released("1.0.0", "2.0.0", stage="canary", canary={"version": "2.0.0", "percent": 50}),
        released("2.0.0", stage="baking"),
    ):
        plan = plan_start("release.json", before, {"a"}, NEW, Options())
        assert [document["stage"] for document in plan.documents] == ["baking", "released"]


@pytest.mark.parametrize(
    ("new", "reason"),
    [
        (Candidate(Path("x"), "seefood", "1.0.0", entry("1.0.0")), "1.0.0 is served already"),
        (Candidate(Path("x"), "seefood", "1.0.0", entry("1.0.0") | {"sha256": "1" * 64}), "a version never changes"),
    ],
)
def test_candidate_that_cannot_follow_the_release_is_refused(new, reason):
    with pytest.raises(ValueError, match=reason):
        plan_start("release.json", released("1.0.0"), {"a"}, new, Options())


def test_rollback_goes_to_the_last_other_release_of_the_same_model():
    flowers = make({"0.9.0": entry("0.9.0", "flowers")}, "0.9.0", "released", "another model")
    history = [released("2.0.0"), released("1.5.0", stage="baking"), flowers, released("1.0.0"), released("0.5.0")]
    texts = ["unreadable", *map(write, history)]
    plan = plan_back("release.json", released("2.0.0"), texts, {"a"})
    assert steps(plan) == [("released", "1.0.0", ["1.0.0"])]
    assert (plan.watched, plan.archive, plan.new) == (True, None, "1.0.0")
    # from a version that is only being watched, back to what was released, though the default is the same
    assert steps(plan_back("release.json", released("2.0.0", stage="baking"), texts, set())) == [("released", "2.0.0", ["2.0.0"])]
    with pytest.raises(ValueError, match="no earlier release"):
        plan_back("release.json", released("2.0.0"), texts[:4], {"a"})
    with pytest.raises(ValueError, match="there is no release at release.json"):
        plan_back("release.json", None, [], {"a"})
