"""What a rollout or a rollback will do, decided from what is there before anything is uploaded or written.

A plan is the releases of a model that are written, one after the other. A release's stage says what follows its writing:

    stage      all instances reconcile, then ...
    shadow     ... both versions' answers to captured photos are compared
    canary     ... the new version is watched, and stays on the canaries
    baking     ... the new version is watched, while the old one stays loaded: going back takes no time
    released   ... nothing more
"""

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from scripts.phrases import counted
from scripts.release.document import ReleaseError, canaries, make, parse, releases_of
from scripts.settings import Settings

# what else may be rolled out: answers that differ on purpose, and those of which too few were seen to judge them
ANSWERS = ("differ", "unjudged")


class Candidate(NamedTuple):
    """An archive to roll out, all of its parts checked."""

    path: Path
    model: str
    version: str
    entry: dict[str, Any]


class Options(NamedTuple):
    """What was asked for besides the version."""

    canary: float | None = None  # percent of the instances
    photos: int | None = None  # captured ones, answered by both versions first
    keep: bool = False  # the other versions stay loaded
    unwatched: bool = False
    bake_photos: int = Settings.bake_photos  # captured ones, answered by both versions while the new one is watched
    answers: str | None = None  # one of ANSWERS
    unverified: bool = False  # an archive that is not ours


@dataclass(frozen=True)
class Plan:
    """Releases of a model in the order in which they are written; none where the model is released no more."""

    model: str
    documents: list[dict[str, Any]]
    watched: bool  # instances report: each document is waited for and judged, and undone where that fails
    archive: Path | None = None  # uploaded before the first document
    old: str | None = None  # the default version before, which the new one is compared with
    new: str | None = None
    canaries: tuple[str, ...] = ()
    answers: str | None = None


def plan_start(
    address: str,
    before: Mapping[str, Any] | None,
    instances: Collection[str],
    new: Candidate,
    asked: Options,
    others: Collection[str] = (),
) -> Plan:
    """The plan of rolling a candidate out. ValueError with the reason if it is refused.

    `before` is the model's present release, `others` are the other models that are released there.
    """
    if before is None and asked.canary is not None:
        raise ValueError("a canary needs a release before it: leave CANARY out")
    if before is not None:
        _check_against(before, new)
    unverified = [entry for entry in (new.entry, _default_entry(before)) if entry.get("unverified")]
    if unverified and (asked.canary is not None or asked.photos is not None):
        raise ValueError(f"{unverified[0]['archive']} is not verified, so there is nothing to compare: leave CANARY and SHADOW out")
    if unverified:
        asked = asked._replace(answers=asked.answers or "unjudged", bake_photos=0)
    if (before is not None or others) and not instances:
        if not asked.unwatched:
            raise ValueError(
                f"no running instance follows {address}, so nothing can confirm that {new.version} is served. "
                "Start one (make serve), or write the document unwatched: UNWATCHED=1"
            )
        if asked.canary is not None:
            raise ValueError("a canary needs running instances: leave CANARY out, or start them (make serve)")
    if before is None or not instances:
        why = f"{new.version} is released" + ("" if instances else ", unwatched")
        document = make({new.version: new.entry}, new.version, "released", why)
        return Plan(new.model, [document], bool(instances), new.path, None, new.version)
    _check_options(instances, asked)
    old = str(before["default"])
    # while a canary is out or a version is baking, rolling out the default version settles that
    if old == new.version and before["stage"] == "released" and "canary" not in before:
        raise ValueError(f"{new.version} is served already")
    chosen = tuple(canaries(instances, asked.canary)) if asked.canary is not None else ()
    return Plan(new.model, _stages(before, new, asked), True, new.path, old, new.version, chosen, asked.answers)


def _default_entry(release: Mapping[str, Any] | None) -> dict[str, Any]:
    """The entry of a release's default version, {} without a release."""
    return dict(release["versions"][release["default"]]) if release else {}


def _check_against(before: Mapping[str, Any], new: Candidate) -> None:
    """ValueError unless the candidate can follow this release of its model."""
    present = before["versions"].get(new.version, new.entry)
    if present["sha256"] != new.entry["sha256"]:
        raise ValueError(f"{new.version} is released with another archive, and a version never changes: choose another VERSION")


def _check_options(instances: Collection[str], asked: Options) -> None:
    """ValueError for a share or a number out of its range."""
    if asked.photos is not None and asked.photos < 1:
        raise ValueError(f"SHADOW is {asked.photos}, expected a number of photos from 1")
    if asked.canary is None:
        return
    if not 0 < asked.canary < 100:  # nan, too
        raise ValueError(f"CANARY is {asked.canary:g}, expected a share of the instances in percent, between 0 and 100")
    if not canaries(instances, asked.canary):
        if len(instances) == 1:
            raise ValueError(
                "one instance alone has no canary, as all requests would go to it: leave CANARY out, or run two or more "
                "(on ECS: MinTasks)"
            )
        advice = f"CANARY={math.ceil(100 / len(instances))} is one"
        raise ValueError(f"{asked.canary:g} % of {counted(len(instances), 'instance')} is less than one of them: {advice}")


def _stages(before: Mapping[str, Any], new: Candidate, asked: Options) -> list[dict[str, Any]]:
    """The documents on the way from one release to the next."""
    old, version = before["default"], new.version
    both = {**before["versions"], version: new.entry}
    documents = []
    if asked.photos is not None:
        shadow = {"version": version, "photos": asked.photos}
        documents.append(make(both, old, "shadow", f"{version} beside {old}, with captured photos", shadow=shadow))
    if asked.canary is not None:
        canary = {"version": version, "percent": asked.canary}
        why = f"{version} for {asked.canary:g} % of the instances"
        # the last one: a canary stays until somebody promotes it (rolls it out without CANARY) or goes back
        return [*documents, make(both, old, "canary", why, canary=canary, **_asked_of(version, old, asked))]
    documents.append(make(both, version, "baking", f"{version} is watched beside {old}", **_asked_of(old, version, asked)))
    kept = both if asked.keep else {version: new.entry}
    return [*documents, make(kept, version, "released", f"{version} in place of {old}")]


def _asked_of(other: str, default: str, asked: Options) -> dict[str, Any]:
    """The part of a document by which the other version, too, is asked photos while the new one is watched."""
    # where a canary is taken back by rolling the default version out there is no other
    return {} if other == default or not asked.bake_photos else {"shadow": {"version": other, "photos": asked.bake_photos}}


def plan_back(
    address: str,
    before: Mapping[str, Any] | None,
    history: Iterable[str],
    instances: Collection[str],
    others: Collection[str] = (),
) -> Plan:
    """The plan of releasing again what was released of a model before. ValueError if there is nothing.

    `history` holds older documents, newest first. A model that was not released before, while `others` are, is withdrawn.
    """
    if before is None:
        raise ValueError(f"there is no release at {address}" + (f" of this model, only of {', '.join(others)}" if others else ""))
    for text in history:
        try:
            releases = releases_of(parse(text))
        except ReleaseError:
            continue  # somebody edited that one
        older = releases.get(before["model"])
        if older is None and others:
            return plan_withdraw(address, before, instances, others)
        # while a canary is out, or a version is watched, the last released document is the one to go back to
        another = older and (before["stage"] != "released" or older["default"] != before["default"])
        if older and another and older["stage"] == "released":
            why = f"back from {before['default']}" + ("" if instances else ", unwatched")
            document = make(older["versions"], older["default"], "released", why)
            return Plan(before["model"], [document], bool(instances), None, before["default"], older["default"])
    raise ValueError(f"no earlier release is in the history of {address}")


def plan_withdraw(address: str, before: Mapping[str, Any] | None, instances: Collection[str], others: Collection[str]) -> Plan:
    """The plan of releasing a model no more. ValueError if it is not released, or the only one."""
    if before is None:
        raise ValueError(f"this model is not released at {address}, only {', '.join(others) or 'none'}")
    if not others:
        raise ValueError(f"{before['model']} is the only model that is released at {address}: make stop ends the server")
    return Plan(before["model"], [], bool(instances), None, before["default"])
