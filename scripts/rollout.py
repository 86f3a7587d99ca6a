"""Roll a version out, and back: `python scripts/rollout.py start 1.1.0`, `... back`, `... status`, `... history`.

Writes the release document and watches the instances that obey it (scripts/serve.py). Fails, and puts the document before
back, when one of them reports a failure, when they take too long, on Ctrl-C, or when the new version has more errors or a
worse p99 than the old one while it is watched. `start --url http://host:8081` instead rolls a TorchServe that was started
by hand: its model store must hold the archive already.
"""

import argparse
import math
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from handler.parts import sha256
from scripts import shadow
from scripts.archive import choose_archive, unpack
from scripts.by_hand import by_hand, start_by_hand
from scripts.figures import figures_of, since, why_worse
from scripts.release import ReleaseError, canaries, fingerprint, make, parse, write
from scripts.settings import Settings
from scripts.status import Live, history_table, status_table
from scripts.steps import Steps
from scripts.store import ChangedError, Store, StoreError, open_store
from scripts.versions import VersionError

POLL_S = 0.5


class RolloutError(RuntimeError):
    """The rollout failed; the message says why, and what is served now."""


class Rollout:
    """One change of the document, watched; restored where it fails."""

    def __init__(self, store: Store, settings: Settings, steps: Steps) -> None:
        """ReleaseError if the present document cannot be read, StoreError."""
        self.store, self.settings, self.steps = store, settings, steps
        self.before: dict[str, Any] | None = None
        self.tag: str | None = None
        try:
            found = store.read()
            assert found is not None
            self.before, self.tag = parse(found[0]), found[1]
        except FileNotFoundError:
            pass
        self.document = self.before

    def write(self, document: dict[str, Any]) -> None:
        """Put a document in place of the one that was written or read last."""
        self.tag = self.store.write(write(document), self.tag)
        self.document = document
        self.steps("released", document=fingerprint(document), stage=document["stage"], default=document["default"])

    def wait(self, limit_s: float) -> None:
        """Return when all live instances have converged. RolloutError with the reason if one cannot, or not in time."""
        assert self.document is not None
        deadline = time.monotonic() + limit_s
        with tqdm(total=1, unit="instance", disable=None, leave=False, desc="converging") as progress:
            while True:
                try:
                    live = Live.of(self.store, self.settings)
                    if why := live.failed(self.document):
                        raise RolloutError(why)
                    done = live.converged(self.document)
                    progress.total = max(1, len(live.statuses))
                    progress.update(len(done) - progress.n)
                    if done and len(done) == len(live.statuses):
                        self.steps("converged", instances=len(done), default=self.document["default"])
                        return
                    why = f"{len(done)} of {len(live.statuses)} instances have converged; " + "; ".join(
                        f"{name} is {said['state']}: {said['why'] or 'no reason given'}"
                        for name, said in live.statuses.items()
                        if name not in done
                    )
                except StoreError as error:
                    why = str(error)
                if time.monotonic() > deadline:
                    raise RolloutError(f"not within {limit_s:g} s: {why}")
                time.sleep(POLL_S)

    def bake(self, new: str, old: str) -> None:
        """Watch the new version beside the old one. RolloutError if it is worse, StoreError if the store is away to the end."""
        statuses = Live.of(self.store, self.settings).statuses
        start = {version: figures_of(statuses, version) for version in (new, old)}
        self.steps("watching", version=new, seconds=self.settings.bake_s)
        # statuses come that much late
        deadline, found = time.monotonic() + self.settings.bake_s + self.settings.poll_s, ""
        with tqdm(total=round(self.settings.bake_s), unit="s", disable=None, leave=False, desc="watching") as progress:
            while True:
                left = deadline - time.monotonic()
                try:
                    found = self._compare(new, old, start)
                except StoreError:
                    if left <= 0:
                        raise
                if left <= 0:
                    break
                progress.update(max(0, round(self.settings.bake_s - left) - progress.n))
                time.sleep(min(POLL_S, left))
        self.steps("watched", version=new, found=found)

    def _compare(self, new: str, old: str, start: Mapping[str, Any]) -> str:
        """What was compared. RolloutError if the new version is worse, or an instance has failed meanwhile."""
        assert self.document is not None
        live = Live.of(self.store, self.settings)
        if why := live.failed(self.document):
            raise RolloutError(why)
        during = {version: since(figures_of(live.statuses, version), start[version]) for version in (new, old)}
        # where the old one has no requests any more it is judged by those before
        other = during[old] if during[old]["requests"] >= self.settings.min_requests else start[old]
        why, found = why_worse(during[new], other, self.settings)
        if why:
            raise RolloutError(f"{new} is worse: {why}")
        return found

    def restore(self, why: str) -> str:
        """Put the document back that was there at first; what became of it. Nothing to do if it is the one still."""
        if self.document is self.before:
            return "nothing was changed"
        if self.before is None:
            return "there was no release before this one to go back to"
        before = self.before
        parts = {part: before[part] for part in ("canary", "shadow") if part in before}
        document = make(before["versions"], before["default"], before["stage"], f"restored: {why}", **parts)
        try:
            self.write(document)
            self.wait(self.settings.rollout_s)
        except (RolloutError, StoreError) as error:
            return f"going back to {before['default']} failed, too: {error}"
        return f"{before['default']} is served again"

    def undo_on_failure(self, change: Callable[[], None]) -> None:
        """Make a change. RolloutError, with the document before restored, where it fails."""
        try:
            change()
        except ChangedError as error:
            raise RolloutError(str(error)) from error
        except (RolloutError, StoreError, KeyboardInterrupt) as error:
            why = str(error) or "interrupted"
            self.steps("restoring", because=why)
            raise RolloutError(f"{why}\n{self.restore(why)}") from error


def start(rollout: Rollout, archive: Path, canary: float | None, photos: int | None, keep: bool, unwatched: bool) -> None:
    """Roll an archive out. RolloutError, with all as it was, where that fails; ValueError for what cannot be asked for."""
    with tempfile.TemporaryDirectory() as folder:
        new = str(unpack(archive, Path(folder) / "archive")["version"])
    store, before = rollout.store, rollout.before
    entry = {"archive": archive.name, "sha256": sha256(archive)}
    if before and new in before["versions"] and before["versions"][new]["sha256"] != entry["sha256"]:
        raise ValueError(f"{new} is released with another archive, and a version never changes: choose another VERSION")
    live = Live.of(store, rollout.settings).statuses
    if before and not live and not unwatched:
        raise ValueError(
            f"no instance obeys {store.address}, so nobody would tell whether {new} can be served. Start one (make serve), "
            "or write the document unwatched: UNWATCHED=1"
        )
    store.put(archive)
    if before is None or not live:
        rollout.write(make({new: entry}, new, "released", f"{new} is released" + ("" if live else ", unwatched")))
        if live:
            rollout.wait(rollout.settings.rollout_s)
        return
    old, both = before["default"], {**before["versions"], new: entry}
    if old == new and before["stage"] == "released" and "canary" not in before:
        raise ValueError(f"{new} is served already")
    kept = both if keep else {new: entry}

    def change() -> None:
        if photos is not None:
            _ask_both(rollout, both, old, new, photos)
        if canary is not None:
            chosen = canaries(live, canary)
            rollout.steps("canary", percent=canary, instances=chosen)
            part = {"version": new, "percent": canary}
            rollout.write(make(both, old, "canary", f"{new} for {canary:g} % of the instances", canary=part))
            rollout.wait(rollout.settings.rollout_s)
            rollout.bake(new, old)
            return
        rollout.write(make(both, new, "baking", f"{new} is watched beside {old}"))
        rollout.wait(rollout.settings.rollout_s)
        rollout.bake(new, old)
        rollout.write(make(kept, new, "released", f"{new} in place of {old}"))
        rollout.wait(rollout.settings.rollout_s)

    if canary is not None and not canaries(live, canary):
        raise ValueError(
            f"{canary:g} % of {len(live)} instances is none of them: "
            + (
                f"CANARY={math.ceil(100 / len(live))} is one"
                if len(live) > 1
                else "one instance alone cannot be a share; leave CANARY out"
            )
        )
    rollout.undo_on_failure(change)


def _ask_both(rollout: Rollout, both: Mapping[str, Any], old: str, new: str, photos: int) -> None:
    part = {"version": new, "photos": photos}
    rollout.write(make(both, old, "shadow", f"{new} beside {old}, with captured photos", shadow=part))
    rollout.wait(rollout.settings.rollout_s)
    deadline = time.monotonic() + rollout.settings.rollout_s
    while True:
        assert rollout.document is not None
        said = list(Live.of(rollout.store, rollout.settings).statuses.values())
        reports = [status["shadow"] for status in said if status["shadow"] and status["release"] == fingerprint(rollout.document)]
        if len(reports) == len(said) and said:
            print(shadow.words(reports, old, new), flush=True)
            return
        if time.monotonic() > deadline:
            raise RolloutError("the comparison by captured photos took too long")
        time.sleep(POLL_S)


def back(rollout: Rollout) -> None:
    """Release again what was released before. RolloutError if that is not served then; ValueError if there is nothing."""
    before = rollout.before
    if before is None:
        raise ValueError(f"there is no release at {rollout.store.address}")
    target = None
    for text in rollout.store.history()[1:]:
        try:
            older = parse(text)
        except ReleaseError:
            continue  # somebody wrote that by hand
        if older["stage"] == "released" and (before["stage"] != "released" or older["default"] != before["default"]):
            target = older
            break
    if target is None:
        raise ValueError(f"no earlier release is in the history of {rollout.store.address}")
    for entry in target["versions"].values():
        if not rollout.store.has(entry["archive"]):
            raise ValueError(
                f"{entry['archive']} is no more beside {rollout.store.address}: there is no way back to {target['default']}"
            )
    rollout.write(make(target["versions"], target["default"], "released", f"back from {before['default']}"))
    if not Live.of(rollout.store, rollout.settings).statuses:
        rollout.steps("nobody watches", release=rollout.store.address)
        return
    rollout.wait(rollout.settings.rollout_s)


def main() -> int:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--release", help="the release document: a path or s3://bucket/key; default: MODEL_STORE/release.json")
    parser.add_argument("--model-store", type=Path, default=Path("model_store"))
    commands = parser.add_subparsers(dest="command", required=True)
    starter = commands.add_parser("start", help="roll a version out")
    starter.add_argument("version")
    starter.add_argument("--canary", type=float, metavar="PERCENT", help="for this share of the instances alone")
    starter.add_argument("--shadow", type=int, metavar="N", help="before, ask both versions the last N captured photos")
    starter.add_argument("--keep", action="store_true", help="the other versions stay loaded, under their own paths")
    starter.add_argument("--unwatched", action="store_true", help="write the document though no instance obeys it")
    starter.add_argument("--bake", type=float, metavar="SECONDS", help="watch the new version for so long")
    starter.add_argument("--url", help="the management address of a TorchServe that was started by hand")
    starter.add_argument("--inference-url", help="with --url: its inference address; default: the port before")
    starter.add_argument("--mar", help="with --url: the archive's name in its model store, or its URL; default: the archive's own")
    commands.add_parser("back", help="release again what was released before")
    commands.add_parser("status", help="a table of the instances")
    commands.add_parser("history", help="a table of the releases")
    args = parser.parse_args()
    # SIGTERM as Ctrl-C: the document before is restored on the way out
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return _run(args)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
    except (RolloutError, VersionError, StoreError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
    return 1


def _run(args: argparse.Namespace) -> int:
    settings = Settings.from_environment()
    steps = Steps(settings.log_json)
    if args.command == "start" and args.bake is not None:
        settings = replace(settings, bake_s=args.bake)
    if args.command == "start" and args.url:
        archive = choose_archive(args.model_store, args.version)
        start_by_hand(by_hand(args.url, args.inference_url), archive, args.mar or archive.name, settings, steps)
        print(f"{args.version} answers at {args.url}")
        return 0
    store = open_store(args.release or str(args.model_store / "release.json"))
    if args.command == "status":
        print(status_table(store, settings))
    elif args.command == "history":
        print(history_table(store))
    else:
        rollout = Rollout(store, settings, steps)
        if args.command == "back":
            back(rollout)
        else:
            archive = choose_archive(args.model_store, args.version)
            start(rollout, archive, args.canary, args.shadow, args.keep, args.unwatched)
        assert rollout.document is not None
        print(f"{rollout.document['default']} is released. make status shows the instances, make rollback goes back")
    return 0


if __name__ == "__main__":
    sys.exit(main())
