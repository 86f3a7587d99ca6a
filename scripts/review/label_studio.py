"""Tasks for Label Studio, and annotations from there: its JSON of tasks with predictions and annotations, one choice a photo.

Which label counts: cancelled annotations count for nothing; each other one counts once, by its first choice. A photo whose
annotators disagree, or that has no choice, stays open. "(none of them)" is the choice for none of the classes. A choice that is
no known class stops the import before anything is written, unless new classes are allowed.
Format: https://labelstud.io/guide/export and https://labelstud.io/guide/predictions
"""

import json
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from scripts.atomic import write_json, write_text
from scripts.phrases import counted
from scripts.review.answers import ReviewError
from scripts.review.decisions import LABEL, NONE, Decision, Decisions
from scripts.review.items import Item

NONE_CHOICE = "(none of them)"
FROM, TO = "label", "photo"  # the names in the labelling interface


def export_tasks(items: Sequence[Item], labels: Sequence[str], decisions: Decisions, path: Path) -> None:
    """Write tasks in order, and beside them the labelling interface, `.xml`. Photos are named as Label Studio's local files."""
    write_json(path, [_task(number, item, decisions.of(item.path)) for number, item in enumerate(items, 1)])
    choices = "\n".join(f'    <Choice value="{escape(label)}"/>' for label in (*labels, NONE_CHOICE))
    text = (
        f'<View>\n  <Image name="{TO}" value="$image"/>\n  <Choices name="{FROM}" toName="{TO}" choice="single" required="true">\n'
    )
    write_text(path.with_suffix(".xml"), f"{text}{choices}\n  </Choices>\n</View>\n")


def _task(number: int, item: Item, decision: Decision) -> dict[str, Any]:
    data = {"image": f"/data/local-files/?d={item.path.as_posix().lstrip('/')}", "path": str(item.path), "title": item.title}
    predictions = [
        {"model_version": str(one.get("version")), "score": best["probability"], "result": [_choice(best["label"])]}
        for one in item.answers
        for best in one["predictions"][:1]
    ]
    if item.given:
        predictions.append({"model_version": "feedback", "result": [_choice(item.feedback or NONE_CHOICE)]})
    label = decision.label if decision.kind == LABEL else NONE_CHOICE if decision.kind == NONE else None
    annotations = [{"result": [_choice(label)], "was_cancelled": False}] if label else []
    return {"id": number, "data": data, "predictions": predictions, "annotations": annotations}


def _choice(label: str) -> dict[str, Any]:
    return {"from_name": FROM, "to_name": TO, "type": "choices", "value": {"choices": [label]}}


def import_annotations(
    path: Path, items: Sequence[Item], labels: Sequence[str], decisions: Decisions, new_classes: bool = False
) -> str:
    """Take the labels that annotators agree on, and say in a sentence what became of all. ReviewError, with nothing taken."""
    known, here = {*labels, NONE_CHOICE}, {str(item.path): item for item in items}
    taken: list[tuple[Item, Decision]] = []
    disagree = without = elsewhere = 0
    unknown: set[str] = set()
    for task in _tasks(path):
        item = here.get(str(task["data"].get("path")))
        choices = _choices(task)
        if item is None:
            elsewhere += 1
        elif len(choices) == 1:
            (label,) = choices
            unknown |= choices - known
            taken.append((item, Decision(NONE) if label == NONE_CHOICE else Decision(LABEL, label)))
        else:
            disagree, without = disagree + bool(choices), without + (not choices)
    if unknown and not new_classes:
        names = ", ".join(repr(name) for name in sorted(unknown)[:5])
        raise ReviewError(f"{path} has {counted(len(unknown), 'unknown class')}: {names}: NEW_CLASSES=1 takes them")
    for item, decision in taken:
        if decisions.of(item.path) != decision:
            decisions.decide(item.path, decision)
    left = f"{disagree} left open where annotators disagree, {without} without a choice, {elsewhere} not of this batch"
    return f"{counted(len(taken), 'label')} taken, {left}"


def _tasks(path: Path) -> list[dict[str, Any]]:
    try:
        tasks = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise ReviewError(f"{path} is no JSON: export the project from Label Studio as JSON: {error}") from error
    if not isinstance(tasks, list) or not all(isinstance(task, dict) and isinstance(task.get("data"), dict) for task in tasks):
        raise ReviewError(f"{path} is no export of Label Studio: expected a list of tasks: choose JSON there, not JSON-MIN")
    return tasks


def _choices(task: dict[str, Any]) -> set[str]:
    """What the annotators chose, each by the first choice that is not empty."""
    found = set()
    for annotation in task.get("annotations") or []:
        if annotation.get("was_cancelled"):
            continue
        results = [one for one in annotation.get("result") or [] if one.get("type") == "choices"]
        chosen = [choice for one in results for choice in one["value"].get("choices", [])]
        found |= {str(choice) for choice in chosen[:1]}
    return found
