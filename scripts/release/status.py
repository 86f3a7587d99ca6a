"""The instances that report beside a release document, and what was released: for a rollout, and as tables for people."""

import json
import time
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from jsonschema import Draft202012Validator

from scripts.phrases import printable
from scripts.release.document import ReleaseError, default_of, fingerprint, parse, releases_of
from scripts.release.store import Store
from scripts.settings import Settings

SCHEMA = Path(__file__).with_name("status.schema.json")


@cache
def _validator() -> Draft202012Validator:
    return Draft202012Validator(json.loads(SCHEMA.read_text(encoding="utf-8")))


def unreadable(status: Any) -> str:
    """Why this is no status, "" if it is one. Somebody else's file, or another version's, must not end a rollout."""
    problem = next(_validator().iter_errors(status), None)
    return f"no status of an instance: {problem.json_path}: {problem.message}"[:200] if problem else ""


def parts_of(status: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What an instance reports of each model, by the model's name: what its status would be if it served that one alone.

    Of one model a status is that itself; servers that served one model only did not name it: "".
    """
    if "models" not in status:
        return {str(status.get("model") or ""): dict(status)}
    return {name: {"instance": status["instance"], "model": name, **part} for name, part in sorted(status["models"].items())}


def of_model(status: Mapping[str, Any], model: str) -> dict[str, Any]:
    """What an instance reports of a model; that it follows no release of it, if it reports nothing of it."""
    parts = parts_of(status)
    if model in parts or "" in parts:
        return parts.get(model) or parts[""]
    other = next(iter(parts.values()))
    # of a document that it cannot follow it says so with the models of the one before
    state: dict[str, Any] = {"instance": status["instance"], "model": model, "state": "starting"}
    state |= {"since": other["since"], "why": other["why"], "release": None, "default": None, "versions": [], "ready": False}
    return state | {"shadow": None, "figures": {}, "worker_restarts": {}}


class Fleet(NamedTuple):
    """The instances that report beside a document: the fresh statuses by name, and the names of those that are stale.

    An instance that ends in order removes its status, so a stale one has crashed, hangs, or cannot reach the store.
    """

    statuses: dict[str, dict[str, Any]]
    stale: list[str]

    @classmethod
    def of(cls, store: Store, settings: Settings, model: str | None = None) -> "Fleet":
        """With what they report of `model`, or all that they report if none is named. StoreError if the store cannot be reached."""
        # what is no status is left out, and shown by `make status`
        statuses = [(age_s, status) for age_s, status in store.statuses() if not unreadable(status)]
        statuses = [(age_s, of_model(status, model) if model else status) for age_s, status in statuses]
        fresh = {status["instance"]: status for age_s, status in statuses if age_s < settings.stale_s}
        return cls(fresh, [status["instance"] for age_s, status in statuses if age_s >= settings.stale_s])

    def stopped(self, names: Iterable[str]) -> str:
        """Which of these instances stopped reporting, as a sentence; "" if none did."""
        # not all that are stale: an instance that crashed yesterday must not fail today's rollout
        gone = sorted(set(names) & set(self.stale))
        return f"{', '.join(gone)} stopped reporting" if gone else ""

    def failed(self, document: Mapping[str, Any]) -> str:
        """Why an instance cannot follow this document, "" if none has reported a failure."""
        for name, status in self.statuses.items():
            # a failure under another document says nothing about this one
            if status["release"] == fingerprint(document) and status["state"] == "failed":
                return f"{name}: {status['why']}"
        return ""

    def not_ready(self, document: Mapping[str, Any]) -> str:
        """Which instance has reconciled with this document and is not ready, with its reason; "" if none is so."""
        for name, status in self.statuses.items():
            if status["release"] == fingerprint(document) and status["state"] == "reconciled" and not status["ready"]:
                return f"{name} was not ready: {status['why']}"
        return ""

    def reconciled(self, document: Mapping[str, Any]) -> list[str]:
        """The instances that serve all that this document says, and are ready; each canary with the canary's version."""
        return [
            name
            for name, status in self.statuses.items()
            if status["release"] == fingerprint(document)
            and status["state"] == "reconciled"
            and status["ready"]
            # an instance that cannot see the others would not know that it is a canary, and report no problem
            and status["default"] == default_of(document, name, self.statuses)
        ]


def running(store: Store, settings: Settings) -> list[str]:
    """The instances that report, from one listing: a thousand instances must not read a thousand statuses each. StoreError."""
    return [name for age_s, name in store.instances() if age_s < settings.stale_s]


def _table(rows: list[list[str]]) -> str:
    rows = [[printable(cell) for cell in row] for row in rows]  # names and reasons come from whoever can write to the store
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)


def _ago(seconds: float) -> str:
    seconds = max(0, seconds)  # an instance's clock may be ahead of this machine's
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"


def status_table(store: Store, settings: Settings) -> str:
    """What is released, and a line for each instance: versions, default, state, since when, why not."""
    try:
        present = store.read()
    except FileNotFoundError:
        return f"there is no release at {store.address}"
    assert present is not None
    releases = releases_of(parse(present[0]))
    several = len(releases) > 1  # then each line names its model
    rows = [["instance", *["model"] * several, "versions", "default", "state", "ready", "since", "program", "why"]]
    for age_s, status in store.statuses():
        if why := unreadable(status):
            rows.append(["?", *["-"] * several, "-", "-", "unreadable", "no", _ago(age_s), "-", " ".join(why.split())])
            continue
        for name, release in releases.items():
            instance, *row = _row(of_model(status, name), age_s, release, settings)
            rows.append([instance, *[name] * several, *row])
    heads = [_head(store.address, release) for release in releases.values()]
    table = _table(rows) if len(rows) > 1 else "no running instance follows it: make serve starts one"
    return "\n".join([*heads, table])


def _head(address: str, release: Mapping[str, Any]) -> str:
    canary = f", canary {release['canary']['version']} for {release['canary']['percent']:g} %" if "canary" in release else ""
    return printable(
        f"{address}: {release['model']} {release['default']} ({release['stage']}{canary}), "
        f"written {release['written'][:19]} UTC by {release['by']}: {' '.join(release['why'].split())}"
    )


def _row(status: Mapping[str, Any], age_s: float, release: Mapping[str, Any], settings: Settings) -> list[str]:
    stale = age_s >= settings.stale_s  # its last state may not be true any more, so the table does not show it
    state = status["state"] if status["release"] == fingerprint(release) else f"{status['state']}, another document"
    unverified = status.get("unverified") or []
    return [
        status["instance"],
        " ".join(f"{version} (unverified)" if version in unverified else version for version in status["versions"]) or "-",
        status["default"] or "-",
        f"stale for {_ago(age_s)}" if stale else state,
        "yes" if status["ready"] and not stale else "no",
        _ago(time.time() - status["since"]),
        _program(status),
        " ".join(status["why"].split()),
    ]


def _program(status: Mapping[str, Any]) -> str:
    """The name of the program that the default version runs; a server that reports it adds why, behind a colon."""
    name, *_ = (status.get("programs") or {}).get(status["default"], "").partition(": ")
    return " ".join(name.split()) or "-"


def history_table(store: Store) -> str:
    """All documents, newest first. Of those of several models, what was written last of one of them."""
    rows = [["written (UTC)", "stage", "model", "default", "versions", "by", "why"]]
    texts = store.history()
    for text, older in zip(texts, [*texts[1:], "{}"], strict=True):
        try:
            releases = releases_of(parse(text))
        except ReleaseError as error:  # one written by another version of this project: the others are still worth a row
            rows.append(["?", "unreadable", "-", "-", "-", "-", str(error)[:80]])
            continue
        release = max(releases.values(), key=lambda one: str(one["written"]))
        if gone := _removed(older, releases, release):
            rows.append(["?", "removed", gone, "-", "-", "-", "-"])
            continue
        canary = f" canary {release['canary']['version']}" if "canary" in release else ""
        rows.append(
            [
                release["written"][:19],
                release["stage"],
                release["model"],
                release["default"] + canary,
                " ".join(sorted(release["versions"])),
                release["by"],
                " ".join(release["why"].split())[:100],  # a restored release's reason may have many lines
            ]
        )
    return _table(rows)


def _removed(older: str, releases: Mapping[str, Any], newest: Mapping[str, Any]) -> str:
    """The models that a document leaves out of the older one, where it changes nothing else; "" if there are none."""
    try:
        before = releases_of(parse(older))
    except ReleaseError:
        return ""
    return ", ".join(before.keys() - releases.keys()) if newest in before.values() else ""
