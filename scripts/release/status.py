"""What instances say of themselves beside the release document, and what was released: for a rollout, and as tables."""

import time
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from scripts.release.document import ReleaseError, fingerprint, parse
from scripts.release.store import Store
from scripts.settings import Settings


class Live(NamedTuple):
    """The instances whose status is fresh, by name, and the names of those that have fallen silent without an orderly end."""

    statuses: dict[str, dict[str, Any]]
    mute: list[str]

    @classmethod
    def of(cls, store: Store, settings: Settings) -> "Live":
        """StoreError if the store is away."""
        found = store.statuses()
        fresh = {said["instance"]: said for age_s, said in found if age_s < settings.stale_s}
        return cls(fresh, [said["instance"] for age_s, said in found if age_s >= settings.stale_s])

    def silent(self, names: Iterable[str]) -> str:
        """Which of these have fallen silent, "" if none."""
        gone = sorted(set(names) & set(self.mute))
        return f"{', '.join(gone)} fell silent" if gone else ""

    def failed(self, document: Mapping[str, Any]) -> str:
        """Why an instance cannot obey this document, "" if none has said so."""
        for name, said in self.statuses.items():
            if said["release"] == fingerprint(document) and said["state"] == "failed":
                return f"{name}: {said['why']}"
        return ""

    def converged(self, document: Mapping[str, Any]) -> list[str]:
        """Those that obey this document, wholly."""
        return [
            name
            for name, said in self.statuses.items()
            if said["release"] == fingerprint(document) and said["state"] == "converged" and said["ready"]
        ]


def _table(rows: list[list[str]]) -> str:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)


def _ago(seconds: float) -> str:
    seconds = max(0, seconds)
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"


def status_table(store: Store, settings: Settings) -> str:
    """What is released, and a line for each instance: versions, default, state, since when, why not."""
    try:
        found = store.read()
        assert found is not None
        document = parse(found[0])
    except FileNotFoundError:
        return f"there is no release at {store.address}"
    canary = f", canary {document['canary']['version']} for {document['canary']['percent']:g} %" if "canary" in document else ""
    head = (
        f"{store.address}: {document['default']} ({document['stage']}{canary}), written {document['written'][:19]} UTC "
        f"by {document['by']}: {document['why']}"
    )
    rows = [["instance", "versions", "default", "state", "ready", "since", "why"]]
    for age_s, said in store.statuses():
        gone = age_s >= settings.stale_s
        there = said["release"] == fingerprint(document)
        state = f"silent for {_ago(age_s)}" if gone else said["state"] if there else f"{said['state']}, another document"
        versions, ready = " ".join(said["versions"]), "yes" if said["ready"] and not gone else "no"
        rows.append(
            [said["instance"], versions, said["default"] or "-", state, ready, _ago(time.time() - said["since"]), said["why"]]
        )
    return head + "\n" + (_table(rows) if len(rows) > 1 else "no instance obeys it: make serve starts one")


def history_table(store: Store) -> str:
    """All documents, newest first."""
    rows = [["written (UTC)", "stage", "default", "versions", "by", "why"]]
    for text in store.history():
        try:
            document = parse(text)
        except ReleaseError as error:
            rows.append(["?", "unreadable", "-", "-", "-", str(error)[:80]])
            continue
        canary = f" canary {document['canary']['version']}" if "canary" in document else ""
        versions = " ".join(sorted(document["versions"]))
        why = " ".join(document["why"].split())[:100]
        rows.append([document["written"][:19], document["stage"], document["default"] + canary, versions, document["by"], why])
    return _table(rows)
