"""The same photos answered by both versions, as the instances report it (scripts/serving/shadow.py): the versions alone differ.

Captured photos, each instance's own, and the golden photos of both archives.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from scripts.phrases import counted
from scripts.rollout.answers import Difference, calls, is_one_class, largest, percent, probable, shown, uncompared, unsure
from scripts.rollout.chance import of_changes, of_events, of_pairs


class Answer(NamedTuple):
    """A version's best class for a photo. `own`: the other version has no such class."""

    label: str
    probability: float
    sure: bool
    own: bool


Pair = tuple[Answer | None, Answer | None]  # (old, new), None for a photo that was refused
HELD = 0.6  # of the agreement that the versions' probabilities let expect
ALIKE = 0.02  # probabilities of one network, in whatever format and precision it is exported


class Pairs(NamedTuple):
    """All of them."""

    captured: list[Pair]
    golden: list[Pair]

    @classmethod
    def of(cls, reports: Iterable[Mapping[str, Any]], old: str, new: str) -> "Pairs":
        """From the reports of all instances; those about other versions, or of servers that report no pairs, are left out."""
        ours = [report for report in reports if report.get("versions") == [old, new] and not _torn(report)]
        captured = [pair for report in ours for pair in _read(report, report["captured"])]
        # golden photos are the same everywhere: counted twice they would seem to be more evidence than they are
        golden = max((_read(report, report["golden"]) for report in ours), key=len, default=[])
        return cls(captured, golden)

    @property
    def together(self) -> list[Pair]:
        """Captured and golden."""
        return self.captured + self.golden

    @property
    def are_alike(self) -> bool:
        """Whether both versions answer all photos, and alike: golden photos alone show that a network has not changed."""
        return bool(self.together) and all(
            old and new and old.label == new.label and abs(old.probability - new.probability) <= ALIKE for old, new in self.together
        )

    @property
    def answered(self) -> int:
        """Captured photos that both versions answer."""
        return sum(bool(old and new) for old, new in self.captured)


def _torn(report: Mapping[str, Any]) -> bool:
    """Whether an answer is not [index of a label that it holds, probability, sure] or None, as those of servers of ours."""

    def is_answer(row: Any) -> bool:
        match row:
            case None:
                return True
            case [int(index), int() | float() as probability, bool()]:
                return 0 <= index < len(report["labels"]) and 0 <= probability <= 1
            case _:
                return False

    pairs = report["golden"] + report["captured"]
    return not all(isinstance(pair, list) and len(pair) == 2 and all(map(is_answer, pair)) for pair in pairs)


def _read(report: Mapping[str, Any], rows: Sequence[Sequence[Any]]) -> list[Pair]:
    labels, only = report["labels"], report["only"]

    def answer(row: Sequence[Any] | None, own: Sequence[int]) -> Answer | None:
        return Answer(labels[row[0]], row[1], row[2], row[0] in own) if row else None

    return [(answer(old, only[0]), answer(new, only[1])) for old, new in rows]


def paired_differences(pairs: Pairs) -> list[Difference]:
    """All comparisons. Golden photos count where they are worth something: four drawn pictures have no shares of classes."""
    both = [(old, new) for old, new in pairs.captured if old and new]
    differences = [*_agreement(pairs), *_refused(pairs.captured)]
    if not both:
        return differences

    def shares(olds: Sequence[bool], news: Sequence[bool]) -> tuple[str, str, float, float]:
        only_new = sum(new and not old for old, new in zip(olds, news, strict=True))
        only_old = sum(old and not new for old, new in zip(olds, news, strict=True))
        n = len(olds)
        return percent(sum(news), n), percent(sum(olds), n), abs(only_new - only_old) / n, of_pairs(only_new, only_old)

    new, old, apart, chance = shares([not old.sure for old, _ in both], [not new.sure for _, new in both])
    differences.append(Difference(unsure(new, old), apart, chance))
    differences.append(_confidence([(old.probability, new.probability) for old, new in both]))
    common = [(old.label, new.label) for old, new in both if not (old.own or new.own)]
    for label in sorted({label for labels in common for label in labels}):
        olds, news = [one == label for one, _ in common], [one == label for _, one in common]
        new, old, apart, chance = shares(olds, news)
        broken = is_one_class(sum(news) / len(news), sum(olds) / len(olds))
        differences.append(Difference(calls(label, new, old), apart, chance, broken))
    return differences


def _agreement(pairs: Pairs) -> list[Difference]:
    """How often both name the same class, beside the least that their own probabilities let expect; and classes that changed name.

    Two honest models differ on some photos. If p and q are the probabilities that they are right, and they err independently,
    both are right with p q. Models of the same photos err on the same ones, so they agree more often. Photos that a
    version is unsure of are left out: it was trained on none like them, and its probability says little. On photos that have
    drifted both are less often right than they state: HELD of what they state must hold.
    """
    sure = [(old, new) for old, new in pairs.together if old and new and old.sure and new.sure and not (old.own or new.own)]
    if not sure:
        return []
    apart = sum(old.label != new.label for old, new in sure)
    expected = [1 - HELD * old.probability * new.probability for old, new in sure]
    words = (
        f"both name the same class for {percent(len(sure) - apart, len(sure))} of {counted(len(sure), 'photo')} that both are "
        f"sure of, at least {percent(len(sure) - sum(expected), len(sure))} were to be expected"
    )
    agreement = Difference(words, max(0.0, (apart - sum(expected)) / len(sure)), of_events(apart, expected))
    return [agreement, *_renamed([(old.label, new.label) for old, new in sure])]


def _renamed(labels: Sequence[tuple[str, str]]) -> list[Difference]:
    """Classes that the new version calls otherwise: two labels that are exchanged change no share, and the agreement little."""
    differences = []
    for label in sorted({old for old, _ in labels}):
        news = Counter(new for old, new in labels if old == label)
        other, count = max(((new, n) for new, n in news.items() if new != label), key=lambda one: one[1], default=("", 0))
        if count > news[label]:
            total = news.total()
            words = f"it calls {percent(count, total)} of {counted(total, 'photo')} {shown(other)} that were {shown(label)}"
            differences.append(Difference(words, (count - news[label]) / total, of_pairs(count, news[label])))
    return differences


def _confidence(probabilities: Sequence[tuple[float, float]]) -> Difference:
    """The mean of the best class's probability: training again hardly moves it, a lost calibration does.

    The share of answers over 90 % moves more with both: by up to 12 points between models that were trained again.
    """
    olds, news = (sum(side) for side in zip(*probabilities, strict=True))
    n = len(probabilities)
    chance = of_changes([new - old for old, new in probabilities])
    return Difference(probable(percent(news, n), percent(olds, n)), abs(news - olds) / n, chance)


def _refused(captured: Sequence[Pair]) -> list[Difference]:
    refused = [sum(pair[i] is None and pair[1 - i] is not None for pair in captured) for i in (0, 1)]
    if refused[1] <= refused[0]:
        return []
    words = f"it does not answer {percent(refused[1], len(captured))} of them, which are answered now"
    return [Difference(words, (refused[1] - refused[0]) / len(captured), of_pairs(*refused), broken=True)]


def described(pairs: Pairs, differences: Sequence[Difference]) -> str:
    """What was compared, in words, whether it differs or not."""
    what = f"{counted(len(pairs.captured), 'captured photo')} and {counted(len(pairs.golden), 'golden photo')}"
    same = sum(bool(old and new and old.label == new.label) for old, new in pairs.together)
    only = Counter(one.label for pair in pairs.together for one in pair if one and one.own)
    rest = [one for one in differences if not one.words.startswith("both")]
    farthest = f"; farthest apart: {largest(rest)}" if rest else ""
    agreement = "".join(f"; {one.words}" for one in differences if one.words.startswith("both"))
    return f"{what}: the same class for {same}{agreement}{farthest}{uncompared(sum(only.values()), list(only))}"
