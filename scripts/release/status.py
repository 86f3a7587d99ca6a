"""The instances that report beside a release document, and what was released: for a rollout, and as tables for people."""

import json
import time
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from jsonschema import Draft202012Validator

from scripts.phrases import printable
from scripts.release.document import ReleaseError, default_of, fingerprint, parse
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


class Fleet(NamedTuple):
    """The instances that report beside a document: the fresh statuses by name, and the names of those that are stale.

    An instance that ends in order removes its status, so a stale one has crashed, hangs, or cannot reach the store.
    """

    statuses: dict[str, dict[str, Any]]
    stale: list[str]

    @classmethod
    def of(cls, store: Store, settings: Settings) -> "Fleet":
        """StoreError if the store cannot be reached."""
        # what is no status is left out, and shown by `make status`
        statuses = [(age_s, status) for age_s, status in store.statuses() if not unreadable(status)]
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
    document = parse(present[0])
    canary = f", canary {document['canary']['version']} for {document['canary']['percent']:g} %" if "canary" in document else ""
    head = printable(
        f"{store.address}: {document['model']} {document['default']} ({document['stage']}{canary}), "
        f"written {document['written'][:19]} UTC by {document['by']}: {' '.join(document['why'].split())}"
    )
    rows = [["instance", "versions", "default", "state", "ready", "since", "why"]]
    for age_s, status in store.statuses():
        if why := unreadable(status):
            rows.append(["?", "-", "-", "unreadable", "no", _ago(age_s), " ".join(why.split())])
            continue
        stale = age_s >= settings.stale_s  # its last state may not be true any more, so the table does not show it
        state = status["state"] if status["release"] == fingerprint(document) else f"{status['state']}, another document"
        rows.append(
            [
                status["instance"],
                " ".join(status["versions"]),
                status["default"] or "-",
                f"stale for {_ago(age_s)}" if stale else state,
                "yes" if status["ready"] and not stale else "no",
                _ago(time.time() - status["since"]),
                " ".join(status["why"].split()),
            ]
        )
    return head + "\n" + (_table(rows) if len(rows) > 1 else "no running instance follows it: make serve starts one")


def history_table(store: Store) -> str:
    """All documents, newest first."""
    rows = [["written (UTC)", "stage", "model", "default", "versions", "by", "why"]]
    for text in store.history():
        try:
            document = parse(text)
        except ReleaseError as error:  # one written by another version of this project: the others are still worth a row
            rows.append(["?", "unreadable", "-", "-", "-", "-", str(error)[:80]])
            continue
        canary = f" canary {document['canary']['version']}" if "canary" in document else ""
        rows.append(
            [
                document["written"][:19],
                document["stage"],
                document["model"],
                document["default"] + canary,
                " ".join(sorted(document["versions"])),
                document["by"],
                " ".join(document["why"].split())[:100],  # a restored release's reason may have many lines
            ]
        )
    return _table(rows)
