"""The steps of make retrain, in their order: what each runs, what it reads, what it leaves.

A step returns what the report needs of it. It may be killed anywhere and run again: each of the commands that it runs goes on,
or does nothing twice. Its line in the run's steps.json, written when it has returned, is what makes it done.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from scripts.atomic import copy, write_json, write_text
from scripts.phrases import counted
from scripts.retrain import pipeline, report, shadow
from scripts.retrain.photos import Split, came_in, check_classes, corrected, read_json, refused, remarks
from scripts.retrain.run import CHAMPION, Run

SOME_FAILED = 3  # make predict: the labels are written, and some photos have none


def pull(run: Run) -> dict[str, Any]:
    """The photos and the champion of this commit; those that are here, where no remote is set."""
    if not has_remote():
        print("no remote is set (make remote BUCKET=s3://...): the photos and the model that are here are taken")
        return {"remote": False}
    run.command("training.data.remote", "pull")
    return {"remote": True}


def champion(run: Run) -> dict[str, Any]:
    """The champion's checkpoint, split and dvc.lock, kept aside in the run's folder: training replaces them."""
    found = pipeline.keep_champion(run.folder / CHAMPION)
    # before the training, and once: the step archive may be killed when it has packed it
    found["next"] = run.options["version"] or (pipeline.free_version(found["version"]) if found["champion"] else found["version"])
    print(f"the champion is {found['version']}" if found["champion"] else "there is no champion yet")
    return found


def ingest(run: Run) -> dict[str, Any]:
    """The reviewed photos in the data set, each by make ingest."""
    files = [run.folder / f"refused-{number}.csv" for number in range(len(run.options["from"]))]
    for source, file in zip(run.options["from"], files, strict=True):
        options = ["--reviewed", *(["--new-classes"] if run.options["new_classes"] else [])]
        run.command("training.data.ingest", *options, "--data", pipeline.values()["data"], "--refused", file, "--", source)
    if not files:
        print("no reviewed photos are given (FROM=labels.csv): the data set is taken as it is")
    return {"from": run.options["from"], "refused": refused(files)}


def check(run: Run) -> dict[str, Any]:
    """The split of the data set as it is now, and what came in; `nothing` says why, if that was trained on before."""
    record = pipeline.read_record()
    changed = record is not None or not run.done["champion"]["champion"] or pipeline.is_changed()
    # not by the pipeline's stage, which would change dvc.lock: where nothing is new, nothing is to change
    split = run.folder / "split.json"
    run.command("training.data.prepare", "--data", pipeline.values()["data"], "--out", split)
    after = Split.read(split)
    if not changed or (record is not None and record["data"] == after.fingerprint):
        since = f"the retraining of {record['at'][:10]}" if record else f"{run.done['champion']['version']} was trained"
        return {"nothing": f"nothing new: no photo since {since}; make review labels some, make ingest adds others"}
    before = Split.read(run.folder / CHAMPION / "split.json") if run.done["champion"]["champion"] else None
    check_classes(before, after)
    new = came_in(before, after)
    found = remarks(before, after, new)
    print(f"{counted(sum(sum(sides.values()) for sides in new.values()), 'photo')} came in, of {counted(len(new), 'class')}")
    for remark in found:
        print(f"  to look at: {remark}")
    found_here = {"data": after.fingerprint, "new": new, "corrected": corrected(before, after), "remarks": found}
    return found_here | {"train": len(after.train), "held_out": len(after.held_out)}


def train(run: Run) -> dict[str, Any]:
    """runs/pipeline/checkpoint.pt, by the pipeline's stage."""
    run.command("dvc", "repro", "train")
    return {}


def evaluate(run: Run) -> dict[str, Any]:
    """runs/pipeline/metrics.json, by the pipeline's stage."""
    run.command("dvc", "repro", "evaluate")
    return {
        "metrics": {name: read_json(pipeline.RUN / "metrics.json")[name] for name in ("top1", "top5", "f1", "calibration_error")}
    }


def promote(run: Run) -> dict[str, Any]:
    """The verdict; if the challenger is no better, the champion's files are put back."""
    out, kept = run.folder / "comparison.json", run.folder / CHAMPION
    if not out.is_file():
        options: list[str | Path] = [
            "--challenger",
            pipeline.RUN,
            "--split",
            pipeline.SPLIT,
            "--model",
            pipeline.values()["name"],
            "--out",
            out,
        ]
        if run.done["champion"]["champion"]:
            options += ["--champion", kept / "checkpoint.pt", "--before", kept / "split.json"]
        if run.options["alpha"]:
            options.append(f"--alpha={run.options['alpha']}")
        run.command("training.tracking.challenge", *options)
    comparison: dict[str, Any] = read_json(out)
    if not comparison["better"] and (words := pipeline.restore_champion(kept)):
        run.command(*words)
    return comparison


def archive(run: Run) -> dict[str, Any]:
    """The challenger as the next version in model_store, exported through the accuracy gate, by the pipeline's stages."""
    if not is_better(run):
        return skipped("the champion stays")
    version = run.options["version"] or run.done["champion"]["next"]
    pipeline.set_version(version)
    run.command("dvc", "repro", "archive")
    return {"version": version, "archive": str(pipeline.archive_of(version))}


def shadow_answers(run: Run) -> dict[str, Any]:
    """How champion and challenger answer the captured photos of PHOTOS."""
    if not is_better(run):
        return skipped("the champion stays")
    if not run.options["photos"]:
        return skipped("no captured photos are given (PHOTOS=folder or s3://...)")
    versions = {"champion": run.done["champion"]["version"], "challenger": run.done["archive"]["version"]}
    archives = {name: pipeline.archive_of(version) for name, version in versions.items()}
    if not run.done["champion"]["champion"] or not archives["champion"].is_file():
        return skipped(f"the archive of {versions['champion']} is not in model_store")
    model = pipeline.values()["name"]
    if (place := shadow.photos_of(run.options["photos"], run.folder, model)) is None:
        return skipped(f"no photo of {run.options['photos']} was answered by {model} and has no feedback")
    for name, version in versions.items():
        options = ["--out", run.folder / f"{name}.jsonl", "--model", model, "--version", version]
        run.command("scripts.predict.predict", *options, "--", place, good=(0, SOME_FAILED))
    labels = {name: shadow.labels_of(archive) for name, archive in archives.items()}
    return shadow.compared(
        shadow.answers_in(run.folder / "champion.jsonl", labels["challenger"]),
        shadow.answers_in(run.folder / "challenger.jsonl", labels["champion"]),
    )


def push(run: Run) -> dict[str, Any]:
    """The photos, and the model if it is better, in the remote."""
    if not has_remote():
        return skipped("no remote is set")
    run.command("training.data.remote", "push")
    return {"remote": True}


def write_report(run: Run) -> dict[str, Any]:
    """report.md in the run's folder and beside the others, and the record by which the next retraining finds new photos."""
    data = pipeline.values()["data"]
    write_text(run.folder / "report.md", report.text(run, data))
    copy(run.folder / "report.md", run.folder.parent / "report.md")
    version = run.done["archive"].get("version") or run.done["champion"]["version"]
    record = {"data": run.done["check"]["data"], "at": run.done["check"]["at"], "better": is_better(run), "version": version}
    if answers := report.expected_answers(run):
        record["answers"] = answers
    write_json(pipeline.RECORD, record)
    return {"report": str(run.folder / "report.md")}


class Step(NamedTuple):
    """A step: its name, what it reads, what it leaves, and the function that takes it."""

    name: str
    inputs: str
    outputs: str
    take: Callable[[Run], dict[str, Any]]


STEPS = (
    Step("pull", "data/*.dvc, dvc.lock, the remote", "the photos and the champion of this commit", pull),
    Step("champion", "dvc.lock, build/split.json, runs/pipeline", "RUN/champion/", champion),
    Step("ingest", "FROM", "the data set with the reviewed photos; RUN/refused-N.csv", ingest),
    Step("check", "the data set", "RUN/split.json; what came in, or: nothing new", check),
    Step("train", "the data set, params.yaml", "runs/pipeline/checkpoint.pt", train),
    Step("evaluate", "the checkpoint", "runs/pipeline/metrics.json", evaluate),
    Step("promote", "challenger and champion", "RUN/comparison.json; no better: the champion's files again", promote),
    Step("archive", "the checkpoint", "dvc.yaml's version, build/pipeline, model_store/NAME-VERSION.mar", archive),
    Step("shadow", "PHOTOS, both archives", "RUN/champion.jsonl, RUN/challenger.jsonl", shadow_answers),
    Step("push", "photos and model", "the remote; versions in data/*.dvc and dvc.lock", push),
    Step("report", "RUN/steps.json", "RUN/report.md, build/retrain/report.md, data/retrained.json", write_report),
)


def is_better(run: Run) -> bool:
    """Whether the challenger is to be released."""
    return bool(run.done["promote"]["better"])


def skipped(why: str) -> dict[str, Any]:
    """What a step returns that has nothing to do."""
    print(f"nothing to do: {why}")
    return {"skipped": why}


def has_remote() -> bool:
    """Whether DVC has a remote to pull from and push to."""
    path = Path(".dvc/config")
    return path.is_file() and "['remote " in path.read_text(encoding="utf-8")
