"""What may be wrong in a data set: `python -m training.check.check --data photos --out build/check-data` (make check-data).

Writes labels.csv (all photos, those first whose label is likeliest wrong, with the label that is suggested), problems.csv
(near-duplicates, outliers, dark, bright, blurred, tiny and oddly shaped photos, unreadable ones, small classes) and page.html,
which shows them. Nothing is changed: which label is right, a person decides.
"""

import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from scripts.command import parser, run
from scripts.phrases import counted
from training.check.features import chosen_features
from training.check.findings import Problem, of_classes, of_pairs, write_labels, write_problems
from training.check.labels import Judged, judge, out_of_fold, scaled
from training.check.page import Page, write_page
from training.check.photos import Measures, distances, far_above, measure_all, oddities
from training.data.duplicates import groups_of
from training.data.foreign import foreign_files
from training.data.known_pairs import known_pairs
from training.data.sets import HASH_CACHE, find_photos, is_list
from training.data.split import Photo, cache_file, hash_photos
from training.params import Params, read_params


@dataclass(frozen=True)
class Checked:
    """What is found: the readable photos, how each one's label is judged, problems, and remarks for people."""

    labels: tuple[str, ...]
    photos: list[Photo]
    judged: Judged
    problems: list[Problem]
    remarks: list[str]


def check(root: Path, params: Params, cache: Path | None = HASH_CACHE) -> Checked:
    """Look for all of it in a data set. ValueError if it is none, nothing of it can be read, or there are no weights."""
    remarks: list[str] = []
    features_of, by = chosen_features(params)  # before any photo is read: weights that do not fit are an error at once
    labels, photos, _ = find_photos(root, remarks)
    if not is_list(root):  # a list's folder may hold anything
        remarks += foreign_files(root)
    measures = measure_all([photo.path for photo in photos])
    unread = [
        Problem("unreadable", labels[photo.index], photo.path, one)
        for photo, one in zip(photos, measures, strict=True)
        if isinstance(one, str)
    ]
    photos = [photo for photo, one in zip(photos, measures, strict=True) if isinstance(one, Measures)]
    if len({photo.index for photo in photos}) < 2:
        raise ValueError(f"{root} has readable photos of fewer than 2 classes: nothing can be compared")
    photos, thumbnails = hash_photos(root, photos, cache)
    pairs = known_pairs(thumbnails, params.near_duplicates, cache and cache_file(cache, root, "pairs"))
    groups = groups_of(pairs, len(photos))
    features = features_of([photo.path for photo in photos])
    remarks.append(f"photos are compared by {by}")
    targets = torch.tensor([photo.index for photo in photos])
    judged = judge(out_of_fold(scaled(features), targets, torch.from_numpy(groups), len(labels)), targets)
    problems = unread + of_pairs(photos, labels, pairs) + of_classes(photos, labels, groups, params.val_fraction)
    problems += _outliers(photos, labels, features) + _odd(photos, labels, measures)
    return Checked(labels, photos, judged, problems, remarks)


def _outliers(photos: list[Photo], labels: tuple[str, ...], features: Tensor) -> list[Problem]:
    far = distances(features)
    outlying = far_above(far)
    numbers = [i for i in far.argsort(descending=True).tolist() if outlying[i]]
    return [Problem("outlier", labels[photos[i].index], photos[i].path, f"distance {float(far[i]):.2f}") for i in numbers]


def _odd(photos: list[Photo], labels: tuple[str, ...], measures: list[Measures | str]) -> list[Problem]:
    found = oddities([one for one in measures if isinstance(one, Measures)])
    return [
        Problem(kind, labels[photo.index], photo.path, detail)
        for photo, odd in zip(photos, found, strict=True)
        for kind, detail in odd.items()
    ]


def main() -> None:
    """Command line; see the module's docstring."""
    arguments = parser(__doc__)
    arguments.add_argument("--data", type=Path, required=True)
    arguments.add_argument("--params", type=Path, default=Path("params.yaml"), help="for weights, val_fraction and near_duplicates")
    arguments.add_argument("--weights", help="of the parameters' network: a file, a run, 'hub'; 'none': the starter's network")
    arguments.add_argument("--out", type=Path, default=Path("build/check-data"))
    args = arguments.parse_args()
    params, started = read_params(args.params), time.monotonic()
    if args.weights:
        params = params.model_copy(update={"weights": args.weights})
    checked = check(args.data, params)
    args.out.mkdir(parents=True, exist_ok=True)
    write_labels(checked.photos, checked.labels, checked.judged, args.out / "labels.csv")
    write_problems(checked.problems, args.out / "problems.csv")
    page = Page(args.data.resolve().name, checked.labels, checked.photos, checked.judged, checked.problems, checked.remarks)
    write_page(page, args.out / "page.html")
    for remark in checked.remarks:
        print(remark)
    kinds = Counter(problem.kind for problem in checked.problems)
    print(
        f"{counted(len(checked.photos), 'photo')} of {counted(len(checked.labels), 'class')}, {time.monotonic() - started:.0f} s:"
    )
    for kind, count in [("likely wrong label", int(checked.judged.likely_wrong.sum())), *kinds.most_common()]:
        print(f"  {count:6d} {kind}")
    print(f"{args.out}/page.html shows them; labels.csv, of which the right rows are kept, is taken by make ingest REVIEWED=1")


if __name__ == "__main__":
    sys.exit(run(main, "nothing was changed"))
