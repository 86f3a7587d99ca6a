"""Train a classifier: one loop, top to bottom, on one process or under torchrun.

    python -m training.train --data PATH --out runs/mine
    torchrun --nproc-per-node=2 --max-restarts=3 -m training.train --data PATH --out runs/mine

Hyper-parameters come from params.yaml; without --data it trains on generated pictures, for demonstrations. A run that was
stopped or killed goes on where its last state was written when the same command is given again. Writes checkpoint.pt (the
best epoch's averaged weights), history.csv and last.pt (the state) into --out, and logs to MLflow.
"""

import argparse
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NoReturn

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from training.data.loader import Batches, eval_loader, train_loader
from training.data.split import MAX_UNREADABLE
from training.params import Params, read_params
from training.recipe import choose_mix, lr_factor, mix_crops, swap_neighbours
from training.record import end_epoch, evaluate_average, finish, introduce
from training.resume import Signals, Stopped, agree, run_in, total
from training.run import Run, start

GO_ON, SAVE, STOP = range(3)  # what a rank wishes after a step; the greatest wish of all holds


def note_unreadable(run: Run, skipped: Tensor, unreadable: set[int]) -> None:
    """Name each photo, by its position in `skipped` (B,), that could not be read. ValueError above MAX_UNREADABLE of all."""
    photos = run.data.train
    for position in set(skipped[skipped >= 0].tolist()) - unreadable:
        unreadable.add(position)
        print(f"skipped {photos[position].path}: unreadable, {len(unreadable)} so far on rank {run.rank}", file=sys.stderr)
        if len(unreadable) > MAX_UNREADABLE * len(photos):
            raise ValueError(f"{len(unreadable)} of {len(photos)} photos became unreadable, the limit is {MAX_UNREADABLE:.0%}")


def part_of_step(model: nn.Module, last: bool) -> AbstractContextManager[None]:
    """Within this `with`, ranks keep their gradients to themselves, unless it is the step's last part."""
    return nullcontext() if last or not isinstance(model, DistributedDataParallel) else model.no_sync()


def progress_bar(run: Run, epoch: int, steps: int) -> "tqdm[NoReturn]":
    """The bar of an epoch, in photos, from where it is taken up; on rank 0."""
    size, name = run.params.global_batch_size, f"epoch {epoch + 1}/{run.params.epochs}"
    done = (run.progress.step - epoch * steps) * size
    return tqdm(total=steps * size, initial=done, desc=name, unit="img", disable=run.rank > 0, leave=False)


def show(bar: "tqdm[NoReturn]", photos: int, sums: Tensor, seen: float) -> None:
    """Move the progress bar by a step; the figures, for which a GPU must be waited for, come once a second."""
    if not bar.disable and time.time() - bar.last_print_t > 1:
        loss, accuracy = (sums / seen).tolist()
        bar.set_postfix_str(f"loss {loss:.3f}, accuracy {accuracy:.3f}", refresh=False)
    bar.update(photos)


def train(
    root: Path | None,
    params: Params,
    out: Path,
    parent_run: str | None = None,
    on_step: Callable[[int], None] = lambda step: None,
    anew: bool = False,
) -> Path:
    """Train, write `out`/checkpoint.pt and return its path; `on_step` is called with the number of steps after each.

    A finished run in `out` is left alone, and another one refused; with `anew` both are started over. ValueError for data or
    parameters that cannot work; Stopped after a signal, with the state saved.
    """
    run = start(root, params, out, anew)
    device, progress, optimizer, rank0 = run.device, run.progress, run.optimizer, run.rank == 0
    batches = Batches(len(run.data.train), params, run.rank, run.world_size, progress.step)
    steps = batches.steps_per_epoch
    held_out = eval_loader(run.data.held_out, params, run.spec, run.rank, run.world_size)
    # all workers are forked now: beside autograd's threads, which the first backward starts, a fork can hang for good
    loader, _ = iter(train_loader(run.data.train, params, batches)), iter(held_out)
    schedule = partial(lr_factor, warmup_steps=int(params.warmup_epochs * steps), total_steps=params.epochs * steps)
    criterion = nn.CrossEntropyLoss(label_smoothing=params.label_smoothing)
    tracker = introduce(run, parent_run)
    unreadable: set[int] = set()
    saved = time.monotonic()

    with Signals() as signals, finish(run, tracker):
        while not progress.finished:
            epoch = progress.epochs
            model = run.learner(epoch)
            # the sums of an epoch that is taken up are of all ranks: one of them goes on with them
            sums = torch.tensor([progress.loss_sum, progress.hits], dtype=torch.float64, device=device) * rank0
            seen = seen_before = progress.seen * rank0
            started, waited = time.perf_counter(), 0.0
            bar = progress_bar(run, epoch, steps)

            while progress.step < (epoch + 1) * steps:
                for group in optimizer.param_groups:
                    group["lr"] = group["peak_lr"] * schedule(progress.step)
                mix = choose_mix(params, progress.step, epoch)
                torch.manual_seed(params.seed + 100_003 * (progress.step * run.world_size + run.rank))  # for dropout
                for part in range(params.accumulate):
                    asked = time.perf_counter()
                    crops, targets, skipped = next(loader)  # uint8 (B, S, S, 3), (B,), (B,)
                    waited += time.perf_counter() - asked
                    note_unreadable(run, skipped, unreadable)
                    crops, targets = crops.to(device, non_blocking=True), targets.to(device, non_blocking=True)
                    others, share = (swap_neighbours(targets), mix.share) if mix else (targets, 1.0)
                    with part_of_step(model, last=part == params.accumulate - 1):
                        with run.autocast:
                            logits = model(mix_crops(crops, mix) if mix else crops)  # (B, num_classes)
                            loss = share * criterion(logits, targets) + (1 - share) * criterion(logits, others)
                        (loss / params.accumulate).backward()
                    hits = (logits.detach().argmax(1) == (targets if share >= 0.5 else others)).sum()
                    sums += torch.stack([loss.detach() * len(targets), hits])
                    seen += len(targets)
                if params.clip_norm:
                    nn.utils.clip_grad_norm_(run.classifier.parameters(), params.clip_norm)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                run.average.update(progress.step)
                progress.step += 1

                show(bar, params.global_batch_size, sums, seen)
                on_step(progress.step)
                due = rank0 and time.monotonic() - saved >= 60 * params.checkpoint_minutes
                wish = agree(STOP if signals.received else SAVE if due else GO_ON)
                if wish != GO_ON:
                    loss_sum, hits_sum, all_seen = total([*sums.tolist(), seen], device)
                    run.save_or_warn(replace(progress, loss_sum=loss_sum, hits=hits_sum, seen=all_seen))
                    saved = time.monotonic()
                if wish == STOP:
                    raise Stopped(signals.received)

            bar.close()
            seconds = time.perf_counter() - started
            progress.loss_sum, progress.hits, progress.seen = total([*sums.tolist(), seen], device)
            figures = {"lr": params.lr * schedule(progress.step - 1), "data_wait": waited / seconds}
            figures["images_per_s"] = (seen - seen_before) * run.world_size / seconds
            end_epoch(run, tracker, *evaluate_average(run, held_out, signals), figures)
    return out / "checkpoint.pt"


def main() -> int:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="Food-101, a folder of class folders, train/ and test/ folders, or split.json")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--weights", help="starting weights: a file, 'hub' or 'none'; default: what the parameter file says")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run; one that was stopped goes on")
    parser.add_argument("--resume", action="store_true", help="take data and parameters from the run in --out")
    parser.add_argument("--anew", action="store_true", help="start over where --out holds another run, or a finished one")
    parser.add_argument("--parent-run", help="MLflow's id of the sweep that this run belongs to")
    args = parser.parse_args()
    try:
        root, params = run_in(args.out) if args.resume else (args.data, read_params(args.params))
        if args.weights:
            params = params.model_copy(update={"weights": args.weights})
        train(root, params, args.out, args.parent_run, anew=args.anew)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except Stopped as stop:
        return 128 + int(stop.args[0])
    except RuntimeError:
        traceback.print_exc()  # such as another rank's death; not left to Python's exit, which would wait for the loader
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
