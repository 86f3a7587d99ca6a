"""What clients were answered by each version, as the instances report it: the counts of handler/metrics.py.

The versions answered different photos, one after the other or on other instances, so a difference may be the photos'.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from scripts.rollout.answers import Difference, calls, is_one_class, percent, probable, uncompared, unsure
from scripts.rollout.chance import of_shares

Statuses = Mapping[str, Mapping[str, Any]]
UNSURE, PROBABILITY, OTHERS = ("unsure", ""), ("probability", ""), ("others", "")
# probabilities at which the answers are divided to test their distribution: bounds of handler/metrics.py's buckets
CUTS = ("0.5", "0.9")


class Answers(Counter[tuple[str, str]]):
    """Counts by ("class", label), ("unsure", ""), ("up to", upper bound of the probability); ("probability", ""), their sum.

    A class may have 0. Of over 1,000 classes only the frequent ones are there, ("others", "") counts the answers with the rest, and
    ("labels", hash of all labels) is there with 0.
    """

    @classmethod
    def of(cls, status: Mapping[str, Any], version: str) -> "Answers":
        """What an instance reports of a version; nothing if it does not report answers, as older servers do not."""
        found = status["figures"].get(version, {}).get("answers")
        if found is None:
            return cls()
        counts = {("class", label): count for label, count in found["classes"].items()}
        counts |= {UNSURE: found["unsure"], PROBABILITY: found["probability"]}
        if "labels" in found:
            counts |= {OTHERS: found["others"], ("labels", found["labels"]): 0}
        return cls(counts | {("up to", upper): n for upper, n in found["probabilities"].items()})

    @classmethod
    def sum(cls, all_of_them: Iterable["Answers"]) -> "Answers":
        """Of several instances together."""
        total = cls()
        for one in all_of_them:
            total.update(one)  # keeps a class with 0, as + would not
        return total

    @property
    def classes(self) -> dict[str, float]:
        """Answers by label."""
        return {name: count for (kind, name), count in self.items() if kind == "class"}

    @property
    def number(self) -> float:
        """All answers."""
        return sum(self.classes.values()) + self[OTHERS]

    @property
    def labels(self) -> set[str]:
        """Hashes of all labels, where not all of them are there."""
        return {name for kind, name in self if kind == "labels"}

    def since(self, before: "Answers") -> "Answers":
        """The answers of the time between, by one instance."""
        if self.number < before.number or self[UNSURE] < before[UNSURE] or self[PROBABILITY] < before[PROBABILITY]:
            return self  # it was started anew, and counted from 0
        # a class may have come to the frequent ones since, or left them: what it had before is among the others then
        since = Answers({key: max(0, count - before[key]) for key, count in self.items()})
        if self.labels:
            since[OTHERS] = max(0, round(self.number - before.number - sum(since.classes.values())))
        return since


def answers_of(statuses: Statuses, version: str, before: Statuses | None = None) -> Answers:
    """A version's answers on all instances, since the statuses before if they are given."""
    earlier = before or {}
    return Answers.sum(
        Answers.of(status, version).since(Answers.of(earlier[name], version) if name in earlier else Answers())
        for name, status in statuses.items()
    )


def live_differences(new: Answers, old: Answers) -> tuple[list[Difference], str]:
    """(all comparisons of two versions' answers, what was not compared). Both have answers."""
    n, m = new.number, old.number

    def difference(words: str, count: float, other: float, broken: bool = False) -> Difference:
        return Difference(words, abs(count / n - other / m), of_shares(count, n, other, m), broken)

    differences = [difference(unsure(percent(new[UNSURE], n), percent(old[UNSURE], m)), new[UNSURE], old[UNSURE])]
    # how far apart is what the means show; whether by chance, what the shares beyond either cut do
    cuts = [of_shares(new["up to", cut], n, old["up to", cut], m) for cut in CUTS]
    means = new[PROBABILITY] / n, old[PROBABILITY] / m
    words = probable(percent(means[0], 1), percent(means[1], 1))
    differences.append(Difference(words, abs(means[0] - means[1]), min(1.0, len(CUTS) * min(cuts))))
    added, removed = sorted(new.classes.keys() - old.classes.keys()), sorted(old.classes.keys() - new.classes.keys())
    common = new.classes.keys() & old.classes.keys()
    if new.labels and new.labels == old.labels:  # both have all classes, and a class that is not named is rare
        common, added, removed = new.classes.keys() | old.classes.keys(), [], []
    for label in common:
        count, other = new["class", label], old["class", label]
        rises = count / n > other / m
        # a class that was added takes answers from others, and one that was removed leaves its own to them
        if not (removed if rises else added):
            words = calls(label, percent(count, n), percent(other, m))
            differences.append(difference(words, count, other, is_one_class(count / n, other / m)))
    only = sum(new.classes[label] for label in added) + sum(old.classes[label] for label in removed)
    return differences, uncompared(only, added + removed)
