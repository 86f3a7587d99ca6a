"""What a run writes: metrics after each epoch, the best checkpoint, its records for MLflow."""

import csv
import math
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import DataLoader

from scripts.atomic import aside
from scripts.phrases import counted
from training.data.balance import imbalance
from training.evaluation.metrics import fit_temperature, predict, summarise
from training.model import Checkpoint
from training.resume import STATE, Progress, Signals, Stopped
from training.run import Run
from training.text.encoder import EncoderTower
from training.tracking.journal import Tracker
from training.tracking.machine import system_metrics
from training.tracking.provenance import dvc_version

TRY = "try a smaller lr, a clip_norm, or precision: float32"


def machine(run: Run) -> str:
    """What the run trains on, e.g. "2 GPUs (NVIDIA H100)", one process each."""
    several = run.world_size > 1
    if run.device.type == "cuda":
        return f"{counted(run.world_size, 'GPU')} ({torch.cuda.get_device_name(run.device)})"
    threads = counted(torch.get_num_threads(), "thread")
    return f"the CPU, {f'{run.world_size} processes of {threads} each' if several else threads}: PyTorch finds no GPU"


def introduce(run: Run, parent_run: str | None) -> Tracker | None:
    """Print what will be trained, and open its MLflow run; None on ranks other than 0, or if the run is finished already."""
    if run.rank > 0:
        return None
    if run.progress.finished:
        run.say(f"{run.out} holds a finished run of {counted(run.progress.epochs, 'epoch')}: nothing to do")
        return None
    data, params = run.data, run.params
    photos = f"{counted(len(data.train), 'training photo')}, {len(data.held_out)} held-out"
    run.say(f"data: {data.source}: {counted(len(data.labels), 'class')}, {photos}")
    if uneven := imbalance(data.train, data.labels, params.class_balance):
        run.say(f"warning: {uneven}")
    if params.text_encoder and run.classifier.tower is None:
        run.say(f"warning: text_encoder {params.text_encoder} is not used: no training photo has a text")
    millions = sum(p.numel() for p in run.classifier.parameters()) / 1e6
    run.say(f"model {run.name}: {params.model}, weights {params.weights}, {millions:.2f} M parameters")
    for one in run.teacher.trained if run.teacher else ():
        top1 = one.checkpoint.metrics.get("top1", float("nan"))
        run.say(f"teacher: {one.path}, {one.checkpoint.params['model']}, top-1 {top1:.4f} of its held-out photos")
    run.say(f"on {machine(run)}; code: commit {run.git}")
    if run.progress.step:
        run.say(f"resuming after step {run.progress.step}, from {run.out / STATE}")
    tracker = Tracker(run.out, parent_run)
    tracker.log_params(params.model_dump())
    commit, _, tree = run.git.partition(" ")
    tags = {
        "model_name": run.name,
        "git_commit": commit,
        "mlflow.source.git.commit": commit,
        "git_tree": tree,
        "data": data.source,
        "data_fingerprint": data.fingerprint,
    }
    if run.teacher:
        tags["teacher_sha256"] = " ".join(one.sha256 for one in run.teacher.trained)
    tags |= {"dvc_version": dvc_version(data.root) if data.root else "not tracked", "world_size": str(run.world_size)}
    name = data.root.resolve().name if data.root else "generated pictures"
    counts = {"classes": len(data.labels), "train": len(data.train), "held_out": len(data.held_out)}
    tracker.log_input(name, data.fingerprint, str(data.root or ""), counts)
    tracker.set_tags(tags | {"device": run.device.type, "torch": torch.__version__})
    return tracker


def evaluate_average(run: Run, held_out: DataLoader[Any], signals: Signals) -> tuple[Tensor, Tensor]:
    """(logits (N, C), targets (N,)) of the averaged weights, in float32, as they are exported.

    All ranks take rank 0's batch statistics: each has its own, and one checkpoint is evaluated. Stopped, with the state saved,
    if a signal comes meanwhile. ValueError if the logits are not finite.
    """
    if dist.is_initialized():
        for buffer in run.average.averaged.buffers():
            dist.broadcast(buffer, 0)
    try:
        with signals.interrupt():
            logits, targets, _ = predict(run.average.averaged, held_out, run.device)
    except Stopped:
        run.save_or_warn(run.progress)
        raise
    if not logits.isfinite().all():
        raise ValueError(f"after step {run.progress.step} the held-out photos' logits are not finite: {TRY}")
    return logits, targets


def end_epoch(run: Run, tracker: Tracker | None, logits: Tensor, targets: Tensor, speed: dict[str, float]) -> None:
    """Record an epoch's metrics and keep its averaged weights if they are the best so far; on all ranks alike.

    ValueError if the disk is full.
    """
    progress, metrics = run.progress, summarise(logits, targets)
    progress.epochs += 1
    row = epoch_row(progress, metrics, speed)
    progress.history.append(row)
    progress.loss_sum, progress.hits, progress.seen = 0.0, 0, 0
    better, exhausted = judge(run, metrics)
    training = f"loss {row['loss']:.3f}, accuracy {row['accuracy']:.3f}, {row['images_per_s']:.0f} images/s"
    run.say(
        f"epoch {progress.epochs}/{run.params.epochs}: {training}, {row['data_wait']:.0%} waiting for data; "
        f"held-out: top-1 {metrics['top1']:.4f}, top-5 {metrics['top5']:.4f}, loss {metrics['loss']:.3f}" + ", best" * better
    )
    if exhausted:
        run.say(f"no better {run.params.best_metric} for {counted(run.params.patience, 'epoch')}: ended early")
    if tracker is None:
        return
    # of the best epoch so far, beside each epoch's own: MLflow's list of runs shows, and sorts by, the last value
    best = {f"best_{name}": row[name] for name in ("epoch", "top1", "top5", "val_loss")} if better else {}
    tracker.log_metrics(row | best | system_metrics(), step=progress.epochs)
    try:
        if better:
            checkpoint_of(run, logits, targets, metrics).save(run.out / "checkpoint.pt")
        write_history(progress.history, run.out / "history.csv")
        # the state last: a run that is killed before it does the epoch again, and writes the same files
        run.save(progress)
    except OSError as error:
        raise ValueError(f"{error}: make room; {run.out / STATE} keeps the state saved before") from error


def check_finite(step: int, loss: float) -> None:
    """ValueError if the loss, or a sum of losses, is not finite."""
    if not math.isfinite(loss):
        raise ValueError(f"after step {step} the loss is {loss:g}: {TRY}")


def epoch_row(progress: Progress, metrics: dict[str, float], speed: dict[str, float]) -> dict[str, float]:
    """The epoch's row in history.csv."""
    loss = progress.loss_sum / progress.seen
    row = {"epoch": progress.epochs, "step": progress.step, "loss": loss, "accuracy": progress.hits / progress.seen} | speed
    return row | {"val_loss" if name == "loss" else name: value for name, value in metrics.items() if name != "photos"}


def judge(run: Run, metrics: dict[str, float]) -> tuple[bool, bool]:
    """(whether the epoch is the best so far, whether the run's patience is exhausted); notes both in the run's progress."""
    progress, params = run.progress, run.params
    quality = -metrics["loss"] if params.best_metric == "loss" else metrics[params.best_metric]
    better = quality > progress.best
    progress.best, progress.epochs_since_best = max(quality, progress.best), 0 if better else progress.epochs_since_best + 1
    exhausted = 0 < params.patience <= progress.epochs_since_best
    progress.finished = exhausted or progress.epochs == params.epochs
    return better, exhausted


def checkpoint_of(run: Run, logits: Tensor, targets: Tensor, metrics: dict[str, float]) -> Checkpoint:
    """The checkpoint of this epoch."""
    by_teacher = sorted(run.teacher.trained_on) if run.teacher else []  # what it knows of them reached this network, too
    network, tower = run.average.averaged.get_submodule("network"), getattr(run.average.averaged, "tower", None)
    return Checkpoint(
        weights={name: value.cpu() for name, value in network.state_dict().items()},
        spec=run.spec.to_dict(),
        labels=run.data.labels,
        params=run.params.model_dump(),
        temperature=fit_temperature(logits, targets),
        epoch=run.progress.epochs,
        metrics=metrics,
        data=run.data.summary(),
        trained_on=list(dict.fromkeys([photo.sha256 for photo in run.data.train] + by_teacher)),
        git=run.git,
        name=run.name,
        held_out=[photo.sha256 for photo in run.data.held_out],
        encoder=tower.source if isinstance(tower, EncoderTower) else None,
        tower=None if tower is None else {name: value.cpu() for name, value in tower.state_dict().items()},
    )


def write_history(history: list[dict[str, float]], path: Path) -> None:
    """One row an epoch, with a header."""
    with aside(path) as part, part.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(history[0]))
        writer.writeheader()
        writer.writerows({name: round(value, 6) for name, value in row.items()} for row in history)


@contextmanager
def recorded(run: Run, parent_run: str | None) -> Iterator[Tracker | None]:
    """Around a run: introduces it, and registers the checkpoint of a finished one; however it ends, its records show the status.

    Yields what introduce() returns.
    """
    tracker, status = introduce(run, parent_run), "FAILED"
    try:
        yield tracker
        status = "FINISHED"
        if tracker is not None:
            tracker.register(run.name, run.out / "checkpoint.pt")
        if dist.is_initialized():
            dist.destroy_process_group()
    except Stopped as stop:
        status = "KILLED"
        name = signal.Signals(stop.args[0]).name if stop.args[0] else "its caller"
        saved = f"saved in {run.out / STATE}" if run.saved_step == run.progress.step else f"step {run.saved_step} is the last saved"
        run.say(f"stopped by {name} after step {run.progress.step}; {saved}")
        raise
    finally:
        if tracker is not None:
            tracker.close(status)
