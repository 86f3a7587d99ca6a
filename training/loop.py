"""The training loop: one function, top to bottom, on one process or under torchrun. The command is training/train.py."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NoReturn

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from training.data.balance import expected_draws, logit_shift, loss_weights
from training.data.loader import Batches, eval_loader, keep_decoded, train_loader
from training.data.split import check_unreadable
from training.params import Params
from training.recipe import choose_mix, lr_factor, mix_crops, mix_sides, swap_neighbours
from training.record import check_finite, end_epoch, evaluate_average, recorded
from training.resume import Signals, Stopped, agree, total
from training.run import Run, no_terminal, start

GO_ON, SAVE, STOP = range(3)  # what a rank asks for after a step; the greatest of all ranks' requests holds
CHECK_STEPS = 20  # between looks at the loss, each of which waits for the GPU


def note_unreadable(run: Run, skipped: Tensor, unreadable: set[int]) -> None:
    """Print each photo, by its position in `skipped` (B,), that could not be read. ValueError as check_unreadable."""
    photos = run.data.train
    for position in set(skipped[skipped >= 0].tolist()) - unreadable:
        unreadable.add(position)
        print(f"skipped {photos[position].path}: unreadable, {len(unreadable)} so far on rank {run.rank}", file=sys.stderr)
        check_unreadable(len(unreadable), len(photos), "training photos")


def part_of_step(model: nn.Module, last: bool) -> AbstractContextManager[None]:
    """Within this `with`, ranks do not exchange gradients, unless it is the step's last part."""
    return nullcontext() if last or not isinstance(model, DistributedDataParallel) else model.no_sync()


@contextmanager
def progress_bar(run: Run, epoch: int, steps: int) -> Iterator["tqdm[NoReturn]"]:
    """The bar of an epoch, in photos, from where it is resumed; on rank 0. Gone before anything else, an error too, is printed."""
    size, name = run.params.global_batch_size, f"epoch {epoch + 1}/{run.params.epochs}"
    done = (run.progress.step - epoch * steps) * size
    bar: tqdm[NoReturn] = tqdm(total=steps * size, initial=done, desc=name, unit="img", disable=run.rank > 0, leave=False)
    try:
        yield bar
    finally:
        with no_terminal():
            bar.close()


def show(bar: "tqdm[NoReturn]", photos: int, sums: Tensor, seen: float) -> None:
    """Move the progress bar by a step; loss and accuracy, which synchronise with a GPU, are updated once a second."""
    if not bar.disable and time.time() - bar.last_print_t > 1:
        loss, accuracy = (sums / seen).tolist()
        bar.set_postfix_str(f"loss {loss:.3f}, accuracy {accuracy:.3f}", refresh=False)
    with no_terminal():
        bar.update(photos)


def save_within_epoch(run: Run, sums: Tensor, seen: float) -> None:
    """Save the run with its unfinished epoch's sums (loss, hits) and photos seen, over all ranks."""
    loss_sum, hits, all_seen = total([*sums.tolist(), seen], run.device)
    run.save_or_warn(replace(run.progress, loss_sum=loss_sum, hits=hits, seen=all_seen))


def train(
    name: str,
    root: Path | None,
    params: Params,
    out: Path,
    parent_run: str | None = None,
    on_step: Callable[[int], None] = lambda step: None,
    start_over: bool = False,
) -> Path:
    """Train model `name`, write `out`/checkpoint.pt and return its path; `on_step` is called with the steps done after each.

    A finished run in `out` stays as it is, another run is an error; with `start_over` both are replaced. ValueError for data or
    parameters that cannot work, and for a loss that is not finite; Stopped after a signal, with the state saved. However it ends,
    no worker of its loaders is left.
    """
    run = start(name, root, params, out, start_over)
    device, progress, optimizer, rank0 = run.device, run.progress, run.optimizer, run.rank == 0
    teacher = run.teacher
    weights = loss_weights(run.data.train, run.data.labels, params.class_weights)
    shift = logit_shift(run.data.train, len(run.data.labels), params.logit_adjustment).to(device)
    expected = expected_draws(run.data.train, params.class_balance) if params.class_balance else None
    batches = Batches(len(run.data.train), params, run.rank, run.world_size, progress.step, expected)
    steps = batches.steps_per_epoch
    of_train, of_held_out = keep_decoded(run.data, params, run.spec)
    train_photos = train_loader(run.data.train, params, batches, run.spec.text, of_train)
    held_out = eval_loader(run.data.held_out, params, run.spec, run.rank, run.world_size, of_held_out)
    schedule = partial(lr_factor, warmup_steps=int(params.warmup_epochs * steps), total_steps=params.epochs * steps)
    criterion = nn.CrossEntropyLoss(label_smoothing=params.label_smoothing, reduction="none")
    unreadable, saved = set[int](), time.monotonic()

    # all workers are forked here: once the first backward has started autograd's threads, a fork can deadlock
    with train_photos, held_out, Signals() as signals, recorded(run, parent_run) as tracker, ExitStack() as bars:
        loader, first_epoch = iter(train_photos), progress.epochs
        while not progress.finished:
            epoch = progress.epochs
            model = run.learner(epoch)
            # the sums of a resumed epoch are over all ranks, so only one rank continues them
            sums = torch.tensor([progress.loss_sum, progress.hits], dtype=torch.float64, device=device) * rank0
            seen = seen_before = progress.seen * rank0
            started, waited = time.perf_counter(), 0.0
            bar = bars.enter_context(progress_bar(run, epoch, steps))

            while progress.step < (epoch + 1) * steps:
                for group in optimizer.param_groups:
                    group["lr"] = group["peak_lr"] * schedule(progress.step)
                mix = choose_mix(params, progress.step, epoch)
                torch.manual_seed(params.seed + 100_003 * (progress.step * run.world_size + run.rank))  # for dropout: by step
                for part in range(params.accumulate):
                    requested = time.perf_counter()
                    crops, targets, skipped, *sides = next(loader)  # uint8 (B, S, S, 3), (B,), (B,); with texts (B, L), (B,)
                    waited += time.perf_counter() - requested
                    note_unreadable(run, skipped, unreadable)
                    counts = batches.weights(progress.step, part, weights)  # (B,)
                    moved = (t.to(device, non_blocking=True) for t in (crops, targets, counts, *sides))
                    crops, targets, counts, *sides = moved
                    others, share = (swap_neighbours(targets), mix.share) if mix else (targets, 1.0)
                    of_others = swap_neighbours(counts) if mix else counts
                    with part_of_step(model, last=part == params.accumulate - 1):
                        with run.autocast:
                            shown = (mix_crops(crops, mix), *mix_sides(sides, mix)) if mix else (crops, *sides)
                            logits = model(*shown)  # (B, num_classes)
                            shifted = logits + shift
                            loss = share * counts * criterion(shifted, targets)  # (B,)
                            loss = loss + (1 - share) * of_others * criterion(shifted, others)
                            if teacher is not None:
                                taught = (share * counts + (1 - share) * of_others) * teacher.loss(logits, teacher(*shown))
                                loss = torch.lerp(loss, taught, params.teacher_weight)
                            loss = loss.mean()
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

                if progress.step % CHECK_STEPS == 0:
                    check_finite(progress.step, *total(sums.tolist()[:1], device))
                show(bar, params.global_batch_size, sums, seen)
                on_step(progress.step)
                due = rank0 and time.monotonic() - saved >= 60 * params.checkpoint_minutes  # one clock for all ranks
                request = agree(STOP if signals.received else SAVE if due else GO_ON)
                if request != GO_ON:
                    save_within_epoch(run, sums, seen)
                    saved = time.monotonic()
                if request == STOP:
                    raise Stopped(signals.received)

            bars.close()
            seconds = time.perf_counter() - started
            if of_train is not None and epoch == first_epoch and (kept := of_train.summary()):
                run.say(kept)
            progress.loss_sum, progress.hits, progress.seen = total([*sums.tolist(), seen], device)
            check_finite(progress.step, progress.loss_sum / progress.seen)
            metrics = {"lr": params.lr * schedule(progress.step - 1), "data_wait": waited / seconds}
            metrics["images_per_s"] = (seen - seen_before) * run.world_size / seconds
            end_epoch(run, tracker, *evaluate_average(run, held_out, signals), metrics)
    return out / "checkpoint.pt"
