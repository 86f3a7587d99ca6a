"""Roll a version out, and back: `python -m scripts.rollout.rollout start 1.1.0`, `... back`, `... status`, `... history`.

Writes the release document and watches the instances that obey it (scripts/serving/serve.py). Fails, and puts the document before
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
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from scripts.archive.build import choose_archive, unpack
from scripts.backend.torchserve.versions import VersionError
from scripts.release.document import ReleaseError, canaries, entry_of, fingerprint, make, parse
from scripts.release.status import Live, history_table, status_table
from scripts.release.store import StoreError, open_store
from scripts.rollout import shadow
from scripts.rollout.guarded import POLL_S, Rollout, RolloutError
from scripts.rollout.unmanaged import by_hand, start_by_hand
from scripts.settings import Settings
from scripts.steps import Steps


def start(rollout: Rollout, archive: Path, canary: float | None, photos: int | None, keep: bool, unwatched: bool) -> None:
    """Roll an archive out. RolloutError, with all as it was, where that fails; ValueError for what cannot be asked for."""
    with tempfile.TemporaryDirectory() as folder:
        new = str(unpack(archive, Path(folder) / "archive")["version"])
    store, before = rollout.store, rollout.before
    entry = entry_of(archive)
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
        if canary is not None:
            raise ValueError("a canary needs a release before it, and instances that obey it: leave CANARY out")
        rollout.write(make({new: entry}, new, "released", f"{new} is released" + ("" if live else ", unwatched")))
        if live:
            rollout.wait(rollout.settings.rollout_s)
        return
    if canary is not None and not 0 < canary < 100:
        raise ValueError(f"CANARY is {canary:g}, expected a share of the instances in percent, between 0 and 100")
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
    if not Live.of(rollout.store, rollout.settings).statuses:
        rollout.write(make(target["versions"], target["default"], "released", f"back from {before['default']}, unwatched"))
        rollout.steps("nobody watches", release=rollout.store.address)
        return

    def change() -> None:
        rollout.write(make(target["versions"], target["default"], "released", f"back from {before['default']}"))
        rollout.wait(rollout.settings.rollout_s)

    rollout.undo_on_failure(change)


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
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup; else a terminal that is closed
        signal.signal(signal.SIGHUP, signal.default_int_handler)
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
        if args.canary is not None or args.shadow is not None or args.keep:
            raise ValueError("CANARY, SHADOW and KEEP need a release document: a TorchServe started by hand has none")
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
