"""When a new version's answers restore the old one: over counts and pairs as instances report them. No server."""

import itertools
import json
import random
import re

import numpy as np
import pytest

from scripts.rollout import judge
from scripts.rollout.chance import of_changes, of_events, of_pairs, of_shares
from scripts.serving.reporter import _bounded
from scripts.settings import Settings

SETTINGS = Settings()
DISHES = [f"dish {i}" for i in range(10)]


def judge_pairs(reports, new, old, settings):
    """(why it is worse, what was found, captured photos that both answered)."""
    verdict, captured = judge.judge_pairs(reports, new, old, settings)
    return verdict.why(settings), verdict.found, captured


def judge_live(versions, now, start, begun, settings):
    """(why it is worse, what was found)."""
    verdict = judge.judge_live(versions, now, start, begun, settings)
    return verdict.why(settings), verdict.found


class Model:
    """A simulated model: right with its own probability on each photo, which is easier or harder for all models."""

    def __init__(self, rng, accuracy=0.88, labels=DISHES, certain=None, unsure=0.05, only=None, turn=0):
        self.rng, self.accuracy, self.labels, self.certain = rng, accuracy, labels, certain
        self.unsure, self.only, self.turn = unsure, only, turn

    def answer(self, dish, difficulty):
        """(label, probability, sure)."""
        probability = min(0.999, max(0.15, self.rng.gauss(self.accuracy + 0.3 * (0.5 - difficulty), 0.12)))
        right = self.rng.random() < probability
        index = dish if right else self.rng.choice([i for i in range(len(self.labels)) if i != dish])
        label = self.only or self.labels[(index + self.turn) % len(self.labels)]
        return label, self.certain or probability, self.rng.random() >= self.unsure


def photos(rng, number, dishes=range(10)):
    return [(rng.choice(list(dishes)), rng.random()) for _ in range(number)]


def shadow(old, new, captured, golden=()):
    """An instance's report, as scripts/serving/shadow.py makes it, through JSON."""
    index, rows = {}, []
    for photo in [*golden, *captured]:
        rows.append([])
        for model in (old, new):
            label, probability, sure = model.answer(*photo)
            rows[-1].append([index.setdefault(label, len(index)), round(probability, 4), sure])
    only = [[i for label, i in index.items() if label in a and label not in b] for a, b in both_ways(old.labels, new.labels)]
    report = {"versions": ["1.0.0", "1.1.0"], "labels": list(index), "only": only}
    return json.loads(json.dumps(report | {"golden": rows[: len(golden)], "captured": rows[len(golden) :]}))


def both_ways(a, b):
    return (a, b), (b, a)


def status(**versions):
    """{"a": the status of an instance} whose models, by version, have answered these photos."""
    figures = {}
    for version, (model, asked) in versions.items():
        answers = [model.answer(*photo) for photo in asked]
        figures[version.replace("v", "").replace("_", ".")] = {
            "answers": {
                "classes": {label: sum(one[0] == label for one in answers) for label in model.labels},
                "unsure": sum(not one[2] for one in answers),
                "probabilities": {str(bound): sum(one[1] <= bound for one in answers) for bound in (0.5, 0.9)},
                "probability": sum(one[1] for one in answers),
            }
        }
    return {"a": {"figures": figures}}


def live(new, old, new_photos, old_photos, settings=SETTINGS):
    start = status(v1_0_0=(old, old_photos))
    now = status(v1_1_0=(new, new_photos))
    now["a"]["figures"] |= start["a"]["figures"]
    return judge_live(("1.1.0", "1.0.0"), now, start, start, settings)


BROKEN = {
    "labels permuted": {"turn": 1},
    "one class": {"only": "dish 3"},
    "crop off": {"accuracy": 0.55, "unsure": 0.45},
    "channels swapped": {"accuracy": 0.6, "unsure": 0.3},
    "calibration lost": {"certain": 0.999},
}


@pytest.mark.parametrize(
    ("fault", "number"), [*((fault, 200) for fault in BROKEN), ("labels permuted", 40), ("one class", 40), ("calibration lost", 40)]
)
def test_each_broken_kind_is_found_by_the_same_photos(fault, number):
    rng = random.Random(f"{fault} {number}")
    found = 0
    for _ in range(20):
        report = shadow(Model(rng), Model(rng, **BROKEN[fault]), photos(rng, number))
        found += bool(judge_pairs([report], "1.1.0", "1.0.0", SETTINGS)[0])
    assert found == 20


@pytest.mark.parametrize("fault", ["one class", "crop off", "channels swapped", "calibration lost"])
def test_what_shows_in_the_answers_to_clients_is_found_in_200_of_them(fault):
    rng = random.Random(fault)
    why, found = live(Model(rng, **BROKEN[fault]), Model(rng), photos(rng, 200), photos(rng, 400))
    assert why, found


@pytest.mark.parametrize("bakes", [300, pytest.param(5000, marks=pytest.mark.slow)])
def test_honest_versions_are_restored_no_more_often_than_stated(bakes):
    rng = random.Random(bakes)
    restored = 0
    for _ in range(bakes):
        old, new = Model(rng, rng.uniform(0.85, 0.9)), Model(rng, rng.uniform(0.85, 0.9))
        restored += bool(judge_pairs([shadow(old, new, photos(rng, 100))], "1.1.0", "1.0.0", SETTINGS)[0])
        restored += bool(live(new, old, photos(rng, 100), photos(rng, 150))[0])
    print(f"{restored} of {bakes} honest bakes restored")
    assert restored <= bakes * SETTINGS.answers_chance


@pytest.mark.parametrize("classes", [2, 10, pytest.param(1000, marks=pytest.mark.slow)])
def test_equal_versions_are_restored_no_more_often_than_stated_whatever_the_points(classes):
    # without the ten points, which hide what the tests alone do
    settings, rng = Settings(worse_answers=0, answers_chance=0.05), np.random.default_rng(classes)
    restored = 0
    for _ in range(300):
        statuses = []
        for number in (150, 200):
            counts = rng.multinomial(number, np.full(classes, 1 / classes))
            unsure, half, ninety = (int(rng.binomial(number, share)) for share in (0.05, 0.2, 0.6))
            statuses.append({"classes": {str(i): int(n) for i, n in enumerate(counts)}, "unsure": unsure})
            statuses[-1] |= {"probabilities": {"0.5": half, "0.9": ninety}, "probability": 0.8 * number}
        start = {"a": {"figures": {"1.0.0": {"answers": statuses[1]}}}}
        now = {"a": {"figures": {"1.0.0": {"answers": statuses[1]}, "1.1.0": {"answers": statuses[0]}}}}
        restored += bool(judge_live(("1.1.0", "1.0.0"), now, start, start, settings)[0])
    assert restored <= 300 * 0.05


def test_reason_names_class_and_shares():
    rng = random.Random(2)
    why, _ = live(Model(rng, only="dish 3"), Model(rng), photos(rng, 200), photos(rng, 400))
    assert why.startswith("it calls 100 % dish 3, ")
    report = shadow(Model(rng), Model(rng, turn=1), photos(rng, 200))
    why, found, captured = judge_pairs([report], "1.1.0", "1.0.0", SETTINGS)
    assert "both name the same class for " in why
    assert "were to be expected" in why
    assert found.startswith("200 captured photos and 0 golden photos: the same class for ")
    assert captured == 200


def test_other_photos_than_before_look_like_another_version_to_the_answers_but_not_to_the_same_photos():
    rng = random.Random(3)
    old, new = Model(rng), Model(rng)
    lunch = photos(rng, 300, dishes=(2, 5))
    assert live(new, old, lunch, photos(rng, 300))[0]
    assert not judge_pairs([shadow(old, new, lunch)], "1.1.0", "1.0.0", SETTINGS)[0]


def test_golden_photos_alone_show_the_same_network_or_judge_nothing():
    rng = random.Random(4)
    golden = [(i, 0.0) for i in range(4)]
    same, other = (Model(rng, accuracy=2.0, unsure=0, turn=turn) for turn in (0, 1))
    for new, enough in ((same, True), (other, False)):
        verdict, _ = judge.judge_pairs([shadow(same, new, [], golden)], "1.1.0", "1.0.0", SETTINGS)
        assert (verdict.enough, verdict.why(SETTINGS)) == (enough, "")
    # several instances ask the same golden photos: no more evidence than one
    verdict, _ = judge.judge_pairs([shadow(same, other, [], golden)] * 50, "1.1.0", "1.0.0", SETTINGS)
    assert (verdict.enough, verdict.why(SETTINGS)) == (False, "")
    # a photo that is not answered is not answered alike
    report = shadow(same, same, [], golden)
    report["golden"][0][1] = None
    assert not judge.judge_pairs([report], "1.1.0", "1.0.0", SETTINGS)[0].enough


@pytest.mark.parametrize(("number", "enough"), [(39, False), (40, True)])
def test_so_many_captured_photos_as_stated_judge_a_version(number, enough):
    rng = random.Random(number)
    assert judge.judge_pairs([shadow(Model(rng), Model(rng), photos(rng, number))], "1.1.0", "1.0.0", SETTINGS)[0].enough == enough


def test_two_labels_that_are_exchanged_are_named():
    rng = random.Random(10)
    exchanged = Model(rng, labels=["dish 1", "dish 0", *DISHES[2:]])
    why, *_ = judge_pairs([shadow(Model(rng), exchanged, photos(rng, 200, dishes=range(4)))], "1.1.0", "1.0.0", SETTINGS)
    assert re.search(r"it calls \d+ % of \d+ photos dish (1 that were dish 0|0 that were dish 1)", why), why


class Drifted(Model):
    """On photos unlike those of the training: as sure as ever, right as often as `held`; both versions see what a photo is like."""

    def __init__(self, rng, held, **parts):
        super().__init__(rng, **parts)
        self.held = held

    def answer(self, dish, difficulty):
        label, probability, sure = super().answer(dish, difficulty)
        if self.rng.random() > self.held:
            label = self.labels[(dish + int(1000 * difficulty)) % 10 if self.rng.random() < 0.5 else self.rng.randrange(10)]
        return label, probability, sure


@pytest.mark.parametrize("held", [0.8, 0.6])
def test_honest_versions_are_not_restored_where_the_photos_have_drifted(held):
    rng = random.Random(f"drift {held}")
    restored = 0
    for _ in range(300):
        report = shadow(Drifted(rng, held), Drifted(rng, held), photos(rng, 200))
        restored += bool(judge_pairs([report], "1.1.0", "1.0.0", SETTINGS)[0])
    print(f"{restored} of 300 honest bakes on drifted photos restored, both right {held:.0%} as often as they state")
    assert restored <= 1
    report = shadow(Drifted(rng, held), Drifted(rng, held, turn=1), photos(rng, 200))
    assert judge_pairs([report], "1.1.0", "1.0.0", SETTINGS)[0], "permuted labels are found all the same"


def test_of_more_classes_than_a_status_holds_the_frequent_ones_are_compared():
    rng = np.random.default_rng(11)
    shares = 1 / np.arange(1, 3001)

    def total(number, before=None, only=None):
        counts = rng.multinomial(number, shares / shares.sum()) if only is None else np.eye(3000, dtype=int)[only] * number
        counts = counts + (before if before is not None else 0)
        found = {"unsure": 0, "probabilities": {"0.5": 0, "0.9": 0}, "probability": 0.95 * float(counts.sum())}
        return counts, {"answers": found | {"classes": {f"dish {i}": float(n) for i, n in enumerate(counts)}}}

    def statuses(**totals):
        return {"a": {"figures": {name: _bounded(total, True) for name, total in totals.items()}}}

    counts, early = total(2000)
    _, late = total(2000, counts)
    begun, start = statuses(old=early), statuses(old=late)
    for only, expected in ((None, ""), (2900, "it calls 100 % dish 2900, 0 % before")):
        now = statuses(old=late, new=total(500, only=only)[1])
        verdict = judge.judge_live(("new", "old"), now, start, begun, SETTINGS)
        assert verdict.found.startswith("500 answers (the old version: 2000)"), verdict.found
        assert "not compared" not in verdict.found
        assert verdict.why(SETTINGS).startswith(expected), verdict.why(SETTINGS)
        assert bool(verdict.why(SETTINGS)) == bool(expected), verdict.why(SETTINGS)


def test_class_that_only_one_version_has_is_named_and_not_compared():
    rng = random.Random(5)
    renamed = Model(rng, labels=["a\nnew name" if label == "dish 4" else label for label in DISHES])
    report = shadow(Model(rng), renamed, photos(rng, 200, dishes=(1, 2, 3, 4)))
    why, found, _ = judge_pairs([report], "1.1.0", "1.0.0", SETTINGS)
    assert not why
    assert "answers with classes that only one version has" in found
    assert "'a\\nnew name'" in found
    why, found = live(renamed, Model(rng), photos(rng, 300, dishes=(1, 2, 3, 4)), photos(rng, 300, dishes=(1, 2, 3, 4)))
    assert not why
    assert "classes that only one version has" in found


def test_added_class_may_take_answers_from_others_and_a_rise_is_still_found():
    rng = random.Random(6)
    wider = Model(rng, labels=[*DISHES, "ramen"])
    why, _ = live(wider, Model(rng), photos(rng, 300, dishes=(1, 2, 10)), photos(rng, 300, dishes=(1, 2, 3)))
    assert "calls" not in why
    why, _ = live(Model(rng, labels=[*DISHES, "ramen"], only="dish 1"), Model(rng), photos(rng, 300), photos(rng, 300))
    assert "it calls 100 % dish 1" in why


def test_instance_that_was_started_anew_counts_from_0_and_older_servers_report_no_answers():
    rng = random.Random(7)
    old, new = Model(rng), Model(rng)
    start = status(v1_0_0=(old, photos(rng, 500)), v1_1_0=(new, photos(rng, 400)))
    now = status(v1_0_0=(old, photos(rng, 10)), v1_1_0=(new, photos(rng, 150)))
    why, found = judge_live(("1.1.0", "1.0.0"), now, start, {}, SETTINGS)
    assert not why
    assert found.startswith("150 answers (the old version: 500); farthest apart: ")
    older = {"a": {"figures": {"1.1.0": {"outcomes": {}, "seconds": {}}}}}
    assert judge_live(("1.1.0", "1.0.0"), older, older, {}, SETTINGS) == (
        "",
        "0 answers (the old version: 0), too few to compare: 100 of each are needed",
    )
    assert judge_pairs([{"photos": 3, "agreed": 3}], "1.1.0", "1.0.0", SETTINGS)[0] == ""


def test_version_that_refuses_photos_which_the_old_one_answers_is_worse():
    rng = random.Random(8)
    report = shadow(Model(rng), Model(rng), photos(rng, 100))
    for row in report["captured"][:40]:
        row[1] = None
    assert "does not answer 40 % of them" in judge_pairs([report], "1.1.0", "1.0.0", SETTINGS)[0]


def test_chances_are_those_of_scipy():
    stats = pytest.importorskip("scipy.stats")
    for k, n, other, m in [(61, 100, 9, 100), (0, 30, 12, 40), (5, 1000, 5, 1000), (70, 120, 300, 900)]:
        table = stats.hypergeom(n + m, k + other, n)
        assert of_shares(k, n, other, m) == pytest.approx(min(1, 2 * min(table.sf(k - 1), table.cdf(k))), rel=1e-6)
    for one, other in [(12, 0), (30, 12), (5, 5)]:
        assert of_pairs(one, other) == pytest.approx(stats.binomtest(one, one + other).pvalue, rel=1e-6)
    for count in (3, 8, 15):
        exact = stats.binom(20, 0.15).sf(count - 1)
        assert exact <= of_events(count, [0.15] * 20) <= max(30 * exact, 1)
    changes = [0.31, 0.2, 0.05, 0.4, -0.1, 0.15, 0.22, 0.3, 0.01, 0.12]
    signs = np.array(list(itertools.product((-1, 1), repeat=len(changes))))
    exact = float((np.abs(signs @ changes) >= sum(changes) - 1e-9).mean())
    assert exact <= of_changes(changes) <= 10 * exact
    assert of_changes([0.0] * 5) == of_changes([]) == 1.0
    assert of_shares(10**6, 10**9, 2 * 10**6, 10**9) < 1e-100


def test_report_that_names_a_label_it_does_not_hold_is_left_out():
    rng = random.Random(9)
    torn = shadow(Model(rng), Model(rng, turn=1), photos(rng, 200))
    torn["labels"] = torn["labels"][:3]
    assert judge_pairs([torn], "1.1.0", "1.0.0", SETTINGS) == ("", "no server has asked both versions the same photos", 0)
    whole = shadow(Model(rng), Model(rng, turn=1), photos(rng, 200))
    assert judge_pairs([torn, whole], "1.1.0", "1.0.0", SETTINGS)[0]
