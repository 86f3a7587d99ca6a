"""Train a classifier: one loop, top to bottom, on one process or under torchrun.

    python training/train.py --data PATH --out runs/mine
    torchrun --nproc-per-node=2 training/train.py --data PATH --out runs/mine

Hyper-parameters come from params.yaml; without --data it trains on generated pictures, for demonstrations.
Leaves out resuming and experiment tracking.
"""

import argparse
import math
import os
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from training.data import Data, read_data
from training.loader import eval_loader, train_loader
from training.metrics import fit_temperature, predict, summarise
from training.model import Checkpoint, Classifier, build, head_modules
from training.params import Params, read_params
from training.provenance import git_commit


def start_process_group() -> tuple[int, int, torch.device]:
    """(rank, world size, device) of this process: torchrun's where it started us, else 0, 1."""
    rank, world_size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if torch.cuda.is_available() else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if "WORLD_SIZE" in os.environ:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return rank, world_size, device


def read_data_once(root: Path | None, params: Params, rank: int) -> Data:
    """The data set; rank 0 reads all photos and fills the cache, the others wait for it and read that."""
    if rank > 0:
        dist.barrier()
    data = read_data(root, params.val_fraction, params.seed, Path("build/photo-hashes"))
    if rank == 0 and dist.is_initialized():
        dist.barrier()
    return data


def parameter_groups(classifier: Classifier, params: Params) -> list[dict[str, object]]:
    """Groups for AdamW: body and head have their own rate, norms and biases (one dimension) do not decay."""
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    head = {id(p) for module in head_modules(classifier.network) for p in module.parameters()}
    for parameter in (p for p in classifier.parameters() if p.requires_grad):
        groups.setdefault((id(parameter) in head, parameter.ndim > 1), []).append(parameter)
    return [
        {"params": ps, "lr": params.head_lr if is_head else params.lr, "weight_decay": params.weight_decay if decays else 0.0}
        for (is_head, decays), ps in groups.items()
    ]


def frozen_modules(classifier: Classifier, params: Params) -> list[nn.Module]:
    """The modules named in params.freeze, their weights held fixed. ValueError names the one that is not there."""
    modules = []
    for name in params.freeze:
        try:
            modules.append(classifier.network.get_submodule(name).requires_grad_(False))
        except AttributeError as error:
            names = [name for name, _ in classifier.network.named_children()]
            raise ValueError(f"freeze: {params.model} has no module {name!r}; it has {names}") from error
    return modules


def lr_factor(step: int, warmup_steps: int, total_steps: int) -> float:
    """Share of the peak rate at `step` (from 0): linear warm-up (arXiv:1706.02677), then cosine decay (arXiv:1608.03983)."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def train(root: Path | None, params: Params, out: Path) -> Path:
    """Train, write `out`/checkpoint.pt and return its path. ValueError for data or parameters that cannot work."""
    rank, world_size, device = start_process_group()
    say = print if rank == 0 else lambda *_: None
    torch.manual_seed(params.seed)
    data = read_data_once(root, params, rank)
    say(f"data: {data.source}: {len(data.labels)} classes, {len(data.train)} photos to train on, {len(data.held_out)} held out")
    classifier, spec = build(params, len(data.labels))
    say(
        f"model: {params.model}, weights {params.weights}, {sum(p.numel() for p in classifier.parameters()) / 1e6:.2f} M parameters"
    )
    frozen = frozen_modules(classifier, params)
    classifier = classifier.to(device)
    ema = AveragedModel(classifier, multi_avg_fn=get_ema_multi_avg_fn(params.ema_decay), use_buffers=True)
    model: nn.Module = DistributedDataParallel(classifier) if dist.is_initialized() else classifier

    loader = train_loader(data, params, rank, world_size)
    held_out = eval_loader(data.held_out, params, spec, rank, world_size)
    optimizer = torch.optim.AdamW(parameter_groups(classifier, params))
    warmup_steps, total_steps = int(params.warmup_epochs * len(loader)), params.epochs * len(loader)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: lr_factor(step, warmup_steps, total_steps))
    criterion = nn.CrossEntropyLoss(label_smoothing=params.label_smoothing)
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=params.precision == "bfloat16")
    commit = git_commit()
    mix = torch.distributions.Beta(params.mixup, params.mixup) if params.mixup > 0 else None

    for epoch in range(params.epochs):
        model.train()
        for module in frozen:
            module.eval()  # their batch statistics stay those of the starting weights
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        seen, hits, loss_sum, started = 0, 0, 0.0, time.monotonic()
        progress = tqdm(loader, f"epoch {epoch + 1}/{params.epochs}", unit="batch", disable=rank > 0, leave=False)
        for crops, targets in progress:
            crops, targets = crops.to(device, non_blocking=True), targets.to(device, non_blocking=True)  # (B, S, S, 3), (B,)
            others, share = targets, 1.0
            if mix is not None:  # arXiv:1710.09412; a batch has one share
                share, order = float(mix.sample()), torch.randperm(len(targets), device=device)
                crops, others = share * crops.float() + (1 - share) * crops[order].float(), targets[order]
            with autocast:
                logits = model(crops)  # (B, num_classes)
                loss = share * criterion(logits, targets) + (1 - share) * criterion(logits, others)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            schedule.step()
            ema.update_parameters(classifier)

            seen, loss_sum = seen + len(targets), loss_sum + loss.item() * len(targets)
            hits += int((logits.argmax(1) == (targets if share >= 0.5 else others)).sum())
            rate = seen * world_size / (time.monotonic() - started)
            progress.set_postfix_str(f"loss {loss_sum / seen:.3f}, accuracy {hits / seen:.3f}, {rate:.0f} images/s")

        if dist.is_initialized():
            for buffer in ema.module.buffers():  # batch statistics are each rank's own: all ranks evaluate rank 0's
                dist.broadcast(buffer, 0)
        with autocast:
            logits, targets = predict(ema.module, held_out, device)
        metrics = summarise(logits, targets)
        say(
            f"epoch {epoch + 1}/{params.epochs}: loss {loss_sum / seen:.3f}, accuracy {hits / seen:.3f}, {rate:.0f} images/s; "
            f"held out: top-1 {metrics['top1']:.4f}, top-5 {metrics['top5']:.4f}, loss {metrics['loss']:.3f}"
        )
        checkpoint = Checkpoint(
            weights={name: value.cpu() for name, value in ema.module.get_submodule("network").state_dict().items()},
            spec=spec.to_dict(),
            labels=data.labels,
            params=params.model_dump(),
            temperature=fit_temperature(logits, targets),
            epoch=epoch + 1,
            metrics=metrics,
            data=data.summary(),
            trained_on=[photo.sha256 for photo in data.train],
            git=commit,
        )
        if rank == 0:
            checkpoint.save(out / "checkpoint.pt")
    if dist.is_initialized():
        dist.destroy_process_group()
    return out / "checkpoint.pt"


def main() -> int:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="Food-101, a folder of class folders, or train/ and test/ folders")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--weights", help="starting weights: a file, 'hub' or 'none'; default: what the parameter file says")
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoint.pt")
    args = parser.parse_args()
    try:
        params = read_params(args.params)
        if args.weights:
            params = params.model_copy(update={"weights": args.weights})
        train(args.data, params, args.out)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
