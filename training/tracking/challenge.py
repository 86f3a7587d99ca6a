"""Compare a challenger with the champion, on the champion's own held-out photos and on later ones apart. For make retrain.

    python -m training.tracking.challenge --challenger runs/pipeline --champion old/checkpoint.pt --split build/split.json \
        --before old/split.json --model NAME --out comparison.json

Photos that came in since were chosen, often because the champion had them wrong, so that it does badly on them whatever the
challenger is worth. The verdict rests on the photos that were held out before (--before) and that neither was trained on: exact
McNemar test, as in promote.py. Without a champion the challenger must beat the most frequent class. The exit status is 0 whatever
the verdict. Where MLflow is used, the version that the run registered gets the verdict, and if it is better the alias champion.
"""

import json
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from scripts.atomic import write_json
from scripts.command import parser, run
from scripts.phrases import counted
from training.data.sets import Data, read_data
from training.data.split import Photo
from training.evaluation.held_out import held_out_photos
from training.model import Checkpoint
from training.params import Params
from training.tracking.paired import ALPHA, Paired, beside_chance, why_not
from training.tracking.registry import Registry, store_errors_in_one_line
from training.tracking.store import CHAMPION, TrackingError, tracking_uri
from training.tracking.unseen import correct_answers, without_trained_on

Right = dict[str, bool]  # whether a model names a photo's class, by the photo's sha256


def right_answers(checkpoint: Checkpoint, data: Data) -> Right:
    """Of each held-out photo that can be read. Of a class that the model does not have, it has none right."""
    index_of = {label: index for index, label in enumerate(checkpoint.labels)}
    label_of = {photo.sha256: data.labels[photo.index] for photo in data.held_out}
    held_out = tuple(
        replace(photo, index=index_of[label]) for photo in data.held_out if (label := label_of[photo.sha256]) in index_of
    )
    if not held_out:
        return dict.fromkeys(label_of, False)
    correct, read = correct_answers(checkpoint, replace(data, labels=checkpoint.labels, held_out=held_out))
    right = {held_out[position].sha256: one for position, one in zip(read.tolist(), correct.tolist(), strict=True)}
    return {sha256: False for sha256, label in label_of.items() if label not in index_of} | right


def check_classes(challenger: Checkpoint, champion: Checkpoint | None) -> None:
    """ValueError if the challenger lacks a class of the champion: on the photos that are left it would look better than it is."""
    gone = sorted(set(champion.labels) - set(challenger.labels)) if champion is not None else []
    if gone:
        raise ValueError(
            f"the challenger lacks classes of the champion ({', '.join(gone[:10])}) and cannot be compared; to start over with its "
            "own, run make pipeline and release its archive"
        )


def unseen_photos(challenger: Checkpoint, champion: Checkpoint | None, split: Path) -> Data:
    """The data set of `split` with the held-out photos that neither was trained on. ValueError if there is none."""
    check_classes(challenger, champion)
    params = Params(**challenger.params)
    data = read_data(split, params.val_fraction, params.seed, params.near_duplicates)
    return without_trained_on(held_out_photos(challenger, data, ask_test=True), champion, ": hold others out, in a folder test/")


def held_out_before(path: Path | None) -> dict[str, str]:
    """The label by sha256 of all photos that an earlier split.json held out."""
    if path is None:
        return {}
    values = json.loads(path.read_text(encoding="utf-8"))
    labels = values["labels"]
    return {sha256: labels[index] for side in ("held_out", "test") for _, index, _, sha256 in values.get(side, [])}


def beside(photos: list[Photo], right: Right, champion: Right | None) -> dict[str, Any] | None:
    """The two models on these photos: top-1 of each, difference in points with its 95 % interval, p; None without photos."""
    of_both = [photo.sha256 for photo in photos if photo.sha256 in right]
    if not of_both:
        return None
    found: dict[str, Any] = {"photos": len(of_both), "challenger": sum(right[one] for one in of_both) / len(of_both)}
    if champion is None:
        return found
    paired = paired_of(of_both, right, champion)
    found |= {"champion": sum(champion[one] for one in of_both) / len(of_both), "points": paired.points}
    return found | {"interval": paired.interval, "p_value": paired.p_value, "gained": paired.gained, "lost": paired.lost}


def paired_of(photos: list[str], right: Right, champion: Right) -> Paired:
    """How many of these photos only one of the two has right."""
    gained = sum(right[one] and not champion[one] for one in photos)
    return Paired(len(photos), gained, sum(champion[one] and not right[one] for one in photos))


def why_chance(photos: list[Photo], right: Right, alpha: float) -> str:
    """Why a challenger without a champion is not taken; "" if it beats the most frequent class."""
    photos = [photo for photo in photos if photo.sha256 in right]
    chance = max(Counter(photo.index for photo in photos).values()) / len(photos)
    return beside_chance(sum(right[photo.sha256] for photo in photos), len(photos), chance, alpha)[0]


def compare(
    challenger: Checkpoint, champion: Checkpoint | None, data: Data, before: dict[str, str], alpha: float
) -> dict[str, Any]:
    """The verdict, and the figures behind it: of photos held out before, of those that came in since, of each class."""
    right = right_answers(challenger, data)
    of_champion = right_answers(champion, data) if champion is not None else None
    # one whose label was corrected was chosen, too
    old = [photo for photo in data.held_out if before.get(photo.sha256) == data.labels[photo.index]]
    new = [photo for photo in data.held_out if before.get(photo.sha256) != data.labels[photo.index]]
    deciding = old or new
    if of_champion is None:
        why = why_chance(deciding, right, alpha)
    else:
        why = why_not(paired_of([photo.sha256 for photo in deciding if photo.sha256 in right], right, of_champion), alpha)
    classes = [
        {"label": label} | found
        for index, label in enumerate(data.labels)
        if (found := beside([photo for photo in deciding if photo.index == index], right, of_champion))
    ]
    return {
        "better": not why,
        "why": why,
        "alpha": alpha,
        "decided_on": "before" if old else "new",
        "before": beside(old, right, of_champion),
        "new": beside(new, right, of_champion),
        "classes": classes,
    }


def note(model: str, run_folder: Path, comparison: dict[str, Any]) -> None:
    """Record the verdict in MLflow's registry, where there is one; a store that is down, or has no such run, is a warning."""
    if tracking_uri() == "none":
        return
    verdict = f"is the {CHAMPION} now" if comparison["better"] else f"stays as it is: {comparison['why']}"
    try:
        with store_errors_in_one_line(tracking_uri()):
            registry = Registry(tracking_uri(), model)
            version = registry.challenger(run_folder)
            registry.note(version, {"verdict": verdict, "by": "make retrain"})
            if comparison["better"]:
                registry.client.set_registered_model_alias(model, CHAMPION, str(version.version))
            print(f"MLflow: {model} {version.version} {verdict}")
    except TrackingError as error:
        print(f"warning: MLflow's registry does not have the verdict: {error}", file=sys.stderr)


def print_comparison(comparison: dict[str, Any]) -> None:
    """The figures of both groups of photos, and the verdict."""
    for group, name in (("before", "held out before"), ("new", "that came in since")):
        if found := comparison[group]:
            line = f"{counted(found['photos'], 'photo')} {name}: challenger {found['challenger']:.4f}"
            if "champion" in found:
                low, high = found["interval"]
                line += f", champion {found['champion']:.4f}: {found['points']:+.2f} points"
                line += f", 95 % interval {low:+.2f} to {high:+.2f}, p = {found['p_value']:.3g}"
            print(line)
    print("the challenger is better" if comparison["better"] else f"the champion stays: {comparison['why']}")


def main() -> None:
    """Command line; see the module's docstring."""
    arguments = parser(__doc__)
    arguments.add_argument("--challenger", type=Path, required=True, help="folder of the run")
    arguments.add_argument("--champion", type=Path, help="checkpoint.pt; default: there is none yet")
    arguments.add_argument("--split", type=Path, required=True, help="split.json of the challenger's data")
    arguments.add_argument("--before", type=Path, help="split.json of the champion's data")
    arguments.add_argument("--model", required=True, help="name of the registered model")
    arguments.add_argument("--alpha", type=float, default=ALPHA, help=f"p that a promotion must be below, default {ALPHA}")
    arguments.add_argument("--out", type=Path, required=True)
    args = arguments.parse_args()
    if not 0 < args.alpha < 1:
        raise ValueError(f"alpha is {args.alpha}, expected a probability between 0 and 1")
    challenger = Checkpoint.load(args.challenger / "checkpoint.pt")
    champion = Checkpoint.load(args.champion) if args.champion else None
    data = unseen_photos(challenger, champion, args.split)
    comparison = compare(challenger, champion, data, held_out_before(args.before), args.alpha)
    print_comparison(comparison)
    note(args.model, args.challenger, comparison)
    write_json(args.out, comparison)  # last: where it exists, all is done


if __name__ == "__main__":
    sys.exit(run(main, "the champion stays as it is"))
