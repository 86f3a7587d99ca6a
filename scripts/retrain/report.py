"""The report of a run, in Markdown: for the pull request, and for whoever merges it."""

import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from scripts.phrases import counted
from scripts.retrain.run import Run

BIAS = (
    "The verdict rests on the photos that were held out before. Those that came in since were chosen, often because the champion "
    "had them wrong: on them it looks worse than it is, so they are shown apart and decide nothing."
)


def text(run: Run, data: str) -> str:
    """The whole report; `data` is the folder of the photos."""
    parts = [
        f"# Retraining of {run.name}",
        verdict(run),
        "## Photos that came in",
        incoming(run.done["check"], run.done["ingest"]["refused"]),
        "## Challenger and champion",
        compared(run.done["promote"]),
        "## By class",
        by_class(run.done["promote"]),
        "## On captured photos",
        captured(run.done["shadow"]),
        "## Next",
        next_steps(run, data),
        "## Steps",
        table(("step", "seconds"), ((name, f"{done['seconds']:.1f}") for name, done in run.done.items())),
    ]
    return "\n\n".join(parts) + "\n"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of Markdown; a bar in a cell stays one."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def percent(share: float) -> str:
    """A share as people read it."""
    return f"{100 * share:.1f} %"


def verdict(run: Run) -> str:
    """What was decided, in a sentence."""
    done, before = run.done["promote"], run.done["champion"]
    if done["better"]:
        over = f"it is better than {before['version']}" if before["champion"] else "there was no champion"
        return f"**{run.done['archive']['version']} is ready to be released**: {over}."
    return f"**Nothing is released, {before['version']} stays**: {done['why']}."


def incoming(check: Mapping[str, Any], refused: Mapping[str, int]) -> str:
    """A table by class, what was refused, and what to look at."""
    rows = [(label, str(sides["train"]), str(sides["held_out"])) for label, sides in check["new"].items()]
    total = [str(sum(sides[side] for sides in check["new"].values())) for side in ("train", "held_out")]
    parts = [table(("class", "to train on", "held out"), [*rows, ("all", *total)])] if rows else ["No photo came in."]
    parts.append(f"The data set has {counted(check['train'], 'photo')} to train on and {check['held_out']} held out.")
    if check["corrected"]:
        changes = (f"{change['photos']} from {change['from']} to {change['to']}" for change in check["corrected"])
        parts.append(f"Labels corrected, the newest counts: {', '.join(changes)}.")
    if refused:
        parts.append("Refused: " + ", ".join(f"{count} {reason}" for reason, count in refused.items()) + ".")
    parts += [f"- To look at: {remark}" for remark in check["remarks"]]
    return "\n\n".join(parts)


def compared(comparison: Mapping[str, Any]) -> str:
    """Top-1 of both on the photos held out before, and on those that came in since."""
    rows = []
    for group, name in (("before", "held out before"), ("new", "came in since")):
        if found := comparison[group]:
            p_value = f"{found['p_value']:.3g}" if "p_value" in found else ""
            rows.append((name, str(found["photos"]), *figures(found), p_value))
    head = ("photos", "number", "challenger", "champion", "difference in points (95 % interval)", "p")
    return "\n\n".join([table(head, rows), BIAS])


def figures(found: Mapping[str, Any]) -> tuple[str, str, str]:
    """(challenger, champion, difference with its interval) as cells."""
    if "champion" not in found:
        return percent(found["challenger"]), "", ""
    low, high = found["interval"]
    return percent(found["challenger"]), percent(found["champion"]), f"{found['points']:+.1f} ({low:+.1f} to {high:+.1f})"


def by_class(comparison: Mapping[str, Any]) -> str:
    """The same for each class, on the photos that decide."""
    rows = [(found["label"], str(found["photos"]), *figures(found)) for found in comparison["classes"]]
    on = "held out before" if comparison["decided_on"] == "before" else "that came in since: none were held out before"
    head = ("class", "photos", "challenger", "champion", "difference in points (95 % interval)")
    return f"On the photos {on}. A class has few photos, so that its interval is wide.\n\n{table(head, rows)}"


def captured(shadow: Mapping[str, Any]) -> str:
    """How often both agree on what people sent."""
    if "skipped" in shadow:
        return f"Not compared: {shadow['skipped']}."
    if not shadow["photos"]:
        return "No captured photo could be read by both."
    sentence = f"Both versions agree on {shadow['agree']} of {counted(shadow['photos'], 'photo')}"
    sentence += f" ({percent(shadow['agree'] / shadow['photos'])})."
    rows = [(change["from"], change["to"], str(change["photos"])) for change in shadow["changes"]]
    parts = [sentence, *([table(("champion", "challenger", "photos"), rows)] if rows else [])]
    if shadow["broken"]:
        parts.append(f"**A rollout will be undone**, and `ANSWERS=differ` changes nothing about that: {shadow['broken']}.")
    elif shadow["differs"]:
        parts.append(
            f"**It answers otherwise than the champion**: {shadow['differs']}. A rollout would be undone for that. Whoever merges "
            "this report accepts it: data/retrained.json says so, and the rollout goes on with `ANSWERS=differ`."
        )
    return "\n\n".join(parts)


def expected_answers(run: Run) -> str:
    """ANSWERS of the rollout: "differ" if captured photos show that the watch would restore the champion for its answers."""
    shadow = run.done["shadow"]
    return "differ" if shadow.get("differs") and not shadow["broken"] else ""


def committed(run: Run, data: str) -> list[str]:
    """The files that a commit of this run has."""
    files = [f"{data}.dvc", "data/retrained.json"]
    return [*files, "dvc.yaml", "dvc.lock"] if run.done["promote"]["better"] else files


def next_steps(run: Run, data: str) -> str:
    """The commands that release it, or that gather more photos."""
    commit = f"git add {shlex.join(committed(run, data))} && git commit -m 'Retraining of {run.name}'"
    if run.done["promote"]["better"]:
        answers = expected_answers(run)
        rollout = f"make rollout VERSION={run.done['archive']['version']} BAKE=300" + (f" ANSWERS={answers}" if answers else "")
        return (
            f"Merged, `model-release.yml` rolls it out, watched and undone if it is worse. By hand:\n\n```sh\n{commit}\n"
            f"{rollout}    # CANARY=10 first, for a fleet; SHADOW=200 compares captured photos\n```"
        )
    return f"The photos stay, for the next retraining:\n\n```sh\n{commit}\n```\n\nMore of them: `make collect`, `make review`."
