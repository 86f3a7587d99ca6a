"""Make a registered model the champion if it is better than the present one, on photos that neither was trained on.

    python -m training.tracking.promote --model NAME --run runs/X    # the version that this run registered: make promote RUN=runs/X
    python -m training.tracking.promote --model NAME                 # the version with the alias challenger
    python -m training.tracking.promote --model NAME --fetch champion --out runs/champion    # its checkpoint.pt

Both models classify the held-out photos of the challenger's data set, cropped as in serving, and are compared photo by photo
with the exact McNemar test (doi:10.1007/BF02295996; for classifiers doi:10.1162/089976698300017197). The alias moves if p is
below --alpha; else the exit status is 1. Either way the version's tags record the comparison.
The challenger's best epoch was chosen on these photos; give --data with others where that matters.
"""

import sys
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

from torch import Tensor

from scripts.command import parser, run
from scripts.phrases import counted
from training.data.sets import Data, read_data
from training.evaluation.held_out import held_out_photos
from training.model import Checkpoint
from training.params import Params
from training.tracking.paired import ALPHA, Paired, beside_chance, why_not
from training.tracking.registry import Registry, store_errors_in_one_line
from training.tracking.store import CHAMPION, tracking_uri, write_state
from training.tracking.unseen import check_labels, correct_answers, without_trained_on


def unseen_photos(challenger: Checkpoint, champion: Checkpoint | None, root: Path | None) -> Data:
    """The challenger's data set with the held-out photos that neither was trained on. ValueError if that is not possible."""
    start_over = f"remove the alias {CHAMPION} from the other version (make mlflow) and promote again"
    check_labels(challenger, champion, start_over)
    params = Params(**challenger.params)
    root = root or challenger.data_root
    data = held_out_photos(challenger, read_data(root, params.val_fraction, params.seed, params.near_duplicates))
    return without_trained_on(data, champion, "; give other photos: DATA=folder")


def against_champion(correct: Tensor, champion_correct: Tensor, alpha: float) -> tuple[str, dict[str, str]]:
    """Why the challenger is not promoted ("" if it is), and the version's tags; both are printed."""
    paired = Paired(len(correct), int((correct & ~champion_correct).sum()), int((champion_correct & ~correct).sum()))
    low, high = paired.interval
    top1, champion_top1 = float(correct.float().mean()), float(champion_correct.float().mean())
    difference = f"{paired.points:+.2f} points, 95 % interval {low:+.2f} to {high:+.2f}"
    print(
        f"  top-1: challenger {top1:.4f}, champion {champion_top1:.4f}: {difference}\n"
        f"  {counted(paired.gained, 'photo')} only the challenger has right, {paired.lost} only the champion: "
        f"p = {paired.p_value:.3g} (exact McNemar test)"
    )
    notes = {"difference": difference, "champion_top1": f"{champion_top1:.4f}", "p_value": f"{paired.p_value:.3g}"}
    return why_not(paired, alpha), notes


def against_chance(correct: Tensor, data: Data, alpha: float) -> tuple[str, dict[str, str]]:
    """The same where there is no champion: the challenger must beat a constant answer, the most frequent class."""
    chance = max(Counter(photo.index for photo in data.held_out).values()) / len(correct)
    reason, p_value = beside_chance(int(correct.sum()), len(correct), chance, alpha)
    top1 = float(correct.float().mean())
    print(f"  no champion yet: top-1 {top1:.4f}, by chance {chance:.4f}: p = {p_value:.3g} (exact binomial test)")
    return reason, {"chance": f"{chance:.4f}", "p_value": f"{p_value:.3g}"}


def promote(registry: Registry, run_folder: Path | None, root: Path | None, alpha: float) -> bool:
    """Compare, tag the version with the result and move the alias; whether its version is the champion now.

    ValueError if nothing can be compared.
    """
    version, holder = registry.challenger(run_folder), registry.holder(CHAMPION)
    name = f"{registry.model} {version.version}"
    if holder is not None and str(version.version) == str(holder.version):
        print(f"{name} is the champion already")
        return True
    challenger, champion = registry.load(version), registry.load(holder) if holder is not None else None
    data = unseen_photos(challenger, champion, root)
    print(f"{name} on {counted(len(data.held_out), 'photo')} of {data.source} that neither model was trained on")
    correct, _ = correct_answers(challenger, data)
    if champion is None:
        reason, tags = against_chance(correct, data, alpha)
    else:
        reason, tags = against_champion(correct, correct_answers(champion, data)[0], alpha)
    verdict = f"stays as it is: {reason}" if reason else f"is the {CHAMPION} now"
    tags |= {"against": str(holder.version) if holder else "none", "photos": str(len(correct)), "data": data.fingerprint}
    tags |= {"top1": f"{float(correct.float().mean()):.4f}", "alpha": f"{alpha:g}", "verdict": verdict}
    # before the alias moves: a champion without the comparison that made it one could not be explained later
    registry.note(version, tags | {"time": datetime.now(UTC).isoformat(timespec="seconds")})
    if not reason:
        registry.client.set_registered_model_alias(registry.model, CHAMPION, str(version.version))
    print(f"{name} {verdict}")
    return not reason


def fetch(registry: Registry, alias: str, out: Path) -> None:
    """Write the checkpoint.pt of the version with that alias into `out`. TrackingError if there is none."""
    version = registry.named(alias)
    print(f"{registry.fetch(version, out)} is {registry.model} {version.version}")
    write_state(out, registry.uri, version.run_id or "", 0)  # for make export, which records the MLflow run


def main() -> int:
    """Command line; see the module's docstring."""
    arguments = parser(__doc__)
    arguments.add_argument("--model", required=True, help="name of the registered model")
    arguments.add_argument("--run", type=Path, help="folder of the challenger's run; default: the registered challenger")
    arguments.add_argument("--data", type=Path, help="photos to compare on; default: the challenger's data set")
    arguments.add_argument("--alpha", type=float, default=ALPHA, help=f"p that a promotion must be below, default {ALPHA}")
    arguments.add_argument("--fetch", metavar="ALIAS", help="download this version's checkpoint.pt, and promote nothing")
    arguments.add_argument("--out", type=Path, help="folder for --fetch")
    args = arguments.parse_args()
    if (args.fetch is None) != (args.out is None):
        arguments.error("--fetch and --out belong together")
    if not 0 < args.alpha < 1:
        raise ValueError(f"alpha is {args.alpha}, expected a probability between 0 and 1")
    with store_errors_in_one_line(tracking_uri()):
        registry = Registry(tracking_uri(), args.model)
        if args.fetch is None:
            return 0 if promote(registry, args.run, args.data, args.alpha) else 1
        fetch(registry, args.fetch, args.out)
    return 0


if __name__ == "__main__":
    sys.exit(run(main, "the champion stays as it is"))
