"""What several models share: half of it is divided among them, the other half is for whoever comes first.

So one model's flood leaves each of the others its part of what waits and what is held, and where there is one model it has all.
"""

from collections.abc import Collection


class Shares:
    """A limit that so many models share."""

    def __init__(self, limit: float, models: int) -> None:
        self.limit, self.own = limit, limit / (2 * max(1, models))

    def has_room(self, mine: float, others: Collection[float]) -> bool:
        """Whether a model may hold `mine` while the others hold that."""
        beyond = sum(max(0.0, held - self.own) for held in (mine, *others))
        return beyond <= self.limit / 2 and mine + sum(others) <= self.limit
