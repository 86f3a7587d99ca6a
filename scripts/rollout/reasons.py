"""What a rollout that fails says to people, where that takes more than a line."""

from collections.abc import Mapping
from typing import Any

from scripts.phrases import counted
from scripts.release.document import default_of
from scripts.release.status import Fleet

SHOWN = 10  # instances


def on_purpose(new: str) -> str:
    """How to go on with a version whose answers differ."""
    return f"\nIf it shall answer so: make rollout VERSION={new} ANSWERS=differ"


def not_judged(new: str, found: str) -> str:
    """Why nothing is known of a version's answers, and what to do."""
    return (
        f"the answers of {new} are not judged: the golden photos are answered otherwise than before, and there is too little else: "
        f"{found}\nSend photos while it is watched (BAKE=300), let photos be captured (SEEFOOD_CAPTURE_SHARE), or judge it "
        f"yourself: make rollout VERSION={new} ANSWERS=unjudged"
    )


def still_reconciling(fleet: Fleet, done: list[str], document: Mapping[str, Any]) -> str:
    """Which instances have not reconciled, and why."""
    others = []
    for name, status in fleet.statuses.items():
        if name not in done:
            expected = default_of(document, name, fleet.statuses)
            other = f" with {status['default']} as its default, expected {expected}" if status["default"] != expected else ""
            others.append(f"{name} is {status['state']}{other}: {status['why'] or 'no reason given'}")
    # of a thousand instances the first few say what the others would
    more = f"; and {len(others) - SHOWN} more" if len(others) > SHOWN else ""
    return f"{len(done)} of {counted(len(fleet.statuses), 'instance')} reconciled; {'; '.join(others[:SHOWN])}{more}"
