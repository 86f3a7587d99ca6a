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
from urllib.parse import quote

from scripts.atomic import write_json, write_text
from scripts.phrases import counted
from scripts.review.answers import ReviewError
from scripts.review.decisions import LABEL, NONE, Decision, Decisions, check
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
    data = {"image": f"/data/local-files/?d={quote(item.path.as_posix().lstrip('/'))}", "path": str(item.path), "title": item.title}
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
    here = {str(item.path): item for item in items}
    chosen: dict[Path, set[str]] = {}  # a photo may be in several tasks
    elsewhere = 0
    for number, task in enumerate(_tasks(path), 1):
        item, choices = here.get(str(task["data"].get("path"))), _choices(task, f"{path}, task {task.get('id', number)}")
        if item is None:
            elsewhere += 1
        else:
            chosen[item.path] = chosen.get(item.path, set()) | choices
    taken = [(photo, _decision(choices, path)) for photo, choices in chosen.items() if len(choices) == 1]
    disagree, without = sum(len(choices) > 1 for choices in chosen.values()), sum(not choices for choices in chosen.values())
    unknown = {decision.label for _, decision in taken if decision.label is not None} - {*labels} - decisions.labels()
    if unknown and not new_classes:
        names = ", ".join(repr(name) for name in sorted(unknown)[:5])
        raise ReviewError(f"{path} has {counted(len(unknown), 'unknown class')}: {names}: NEW_CLASSES=1 takes them")
    decisions.decide_all([(photo, decision) for photo, decision in taken if decisions.of(photo) != decision])
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


def _choices(task: dict[str, Any], where: str) -> set[str]:
    """What the annotators chose, each by the first choice that is not empty. ReviewError for what Label Studio does not write."""
    found = set()
    try:
        for annotation in task.get("annotations") or []:
            if annotation.get("was_cancelled"):
                continue
            results = [one for one in annotation.get("result") or [] if one.get("type") == "choices"]
            chosen = [choice for one in results for choice in one["value"]["choices"] if choice]
            found |= set(chosen[:1])
    except (KeyError, TypeError, AttributeError) as error:
        raise ReviewError(f"{where} has an annotation without choices as Label Studio writes them: {error}") from error
    if not all(isinstance(choice, str) for choice in found):
        raise ReviewError(f"{where} has the choices {sorted(map(str, found))}, expected texts")
    return found


def _decision(choices: set[str], path: Path) -> Decision:
    """That of a photo's one choice. ReviewError for a label that make ingest would refuse."""
    (choice,) = choices
    decision = Decision(NONE) if choice == NONE_CHOICE else Decision(LABEL, choice)
    try:
        check(decision)
    except ValueError as error:
        raise ReviewError(f"{path}: {error}") from error
    return decision
