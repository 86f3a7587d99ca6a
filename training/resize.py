"""A run's network at another size: `python -m training.resize --run runs/latest --size 192 --crop-pct 0.875`.

Many networks answer as well at a size other than that of their run's evaluation, and faster where it is smaller (arXiv:1906.06423).
Writes the folder of a run, whose checkpoint.pt has the same weights and the new spec, and a temperature fitted anew on the photos
by which the run was judged; prints how good both are on them. make evaluate and make export take that folder as RUN.
"""

import os
import shlex
import sys
from dataclasses import replace
from pathlib import Path

from handler.preprocess import Spec
from scripts.command import fail, parser, run
from scripts.phrases import counted
from training.data.sets import read_data
from training.evaluation.held_out import held_out_photos
from training.evaluation.metrics import fit_temperature, summarise
from training.evaluation.predictions import predict_held_out
from training.folder import OF_RUNS, at_work, named_folder, process_at_work
from training.model import Checkpoint, why_refused
from training.params import Params
from training.remedies import remedy

LEAST, MOST = 16, 2048  # pixels: below, no network is made for it; above, a batch of crops takes gigabytes


def resize(checkpoint: Checkpoint, root: Path | None, size: int, crop_pct: float) -> tuple[Checkpoint, dict[str, float]]:
    """The checkpoint for crops of `size`, and the metrics of the one given on the same photos.

    ValueError if there is no such size, the network cannot take it, or as held_out_photos.
    """
    if not LEAST <= size <= MOST:
        raise ValueError(f"SIZE (--size) is {size}, expected {LEAST} to {MOST} pixels")
    changed = {"input_size": [3, size, size], "crop_pct": crop_pct}
    params = checkpoint.params | {"spec": {**checkpoint.params["spec"], **changed}}
    other = replace(checkpoint, spec=checkpoint.spec | changed, params=params)
    classifier, _ = other.classifier()
    if reason := why_refused(classifier, size, crops=1, training=False):
        raise ValueError(f"{params['model']} cannot take crops of {size} x {size} pixels: {reason}")
    settings = Params(**checkpoint.params)
    data = read_data(root, settings.val_fraction, settings.seed, settings.near_duplicates)
    data = held_out_photos(checkpoint, data)
    logits, targets, _ = predict_held_out(checkpoint, checkpoint.classifier()[0], data)
    before = summarise(logits / checkpoint.temperature, targets)
    logits, targets, read = predict_held_out(other, classifier, data)
    temperature = fit_temperature(logits, targets)
    # by the run's own its epoch was chosen; None: an older run, which knows its own by the data set alone
    judged = {data.held_out[i].sha256 for i in read}
    chosen_by = None if checkpoint.held_out is None else sorted({*checkpoint.held_out} | judged)
    return replace(other, metrics=summarise(logits / temperature, targets), temperature=temperature, held_out=chosen_by), before


def seen(spec: Spec) -> str:
    """How a spec crops, in words."""
    return f"{spec.input_size[-1]} pixels, crop_pct {spec.crop_pct:g}"


def main() -> int:
    """Command line; see the module's docstring."""
    arguments = parser(__doc__)
    arguments.add_argument("--run", type=Path, required=True)
    arguments.add_argument("--size", type=int, required=True, help="pixels of a crop's side")
    arguments.add_argument("--crop-pct", type=float, help="share of the short side that a crop takes; default: the run's")
    arguments.add_argument("--data", type=Path, help="default: the data set that the checkpoint was trained on")
    arguments.add_argument("--out", type=Path, help="default: beside the run, with the size in its name")
    args = arguments.parse_args()
    folder = named_folder(args.run)
    checkpoint = Checkpoint.load(folder / "checkpoint.pt")
    if pid := process_at_work(folder):
        print(f"{folder} is at work, as process {pid}: this is its best epoch so far, {checkpoint.epoch}")
    named = folder if folder.name else folder.resolve()
    out = args.out or named.with_name(f"{named.name}-{args.size}")
    crop_pct = checkpoint.spec["crop_pct"] if args.crop_pct is None else args.crop_pct
    with at_work(out, os.getpid()):
        if any((out / name).exists() for name in OF_RUNS):
            raise ValueError(f"{out} holds a run: give another folder, such as OUT=runs/mine (--out)")
        try:
            resized, before = resize(checkpoint, args.data or checkpoint.data_root, args.size, crop_pct)
        except Exception as error:
            if known := remedy(error):
                return fail(f"{known.text}; then the same command again")
            raise
        resized.save(out / "checkpoint.pt")
    print(f"{counted(int(before['photos']), 'held-out photo')}, by which the temperature is fitted at each size:")
    for one, metrics in ((checkpoint, before), (resized, resized.metrics)):
        figures = ", ".join(f"{name} {metrics[name]:.4f}" for name in ("top1", "loss", "calibration_error"))
        print(f"  {seen(one.read_spec())}: {figures}")
    print(f"{out}/checkpoint.pt is written, for {args.size} pixels. Next: make evaluate {shlex.quote(f'RUN={out}')}")
    return 0


if __name__ == "__main__":
    sys.exit(run(main, "no run has changed"))
