"""One rank's share of a run: set up, or taken up where it stopped."""

import copy
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from handler.preprocess import Spec
from training.data.sets import Data, read_data
from training.model import Classifier, build
from training.params import Params
from training.recipe import Average, freeze, parameter_groups
from training.resume import STATE, Progress, agree, check_same_run, load_state, save_state
from training.tracking.journal import RECORDS
from training.tracking.provenance import git_commit


@dataclass
class Run:
    """What the loop works on: one rank's share of a run."""

    rank: int
    world_size: int
    device: torch.device
    params: Params
    data: Data
    out: Path
    spec: Spec
    classifier: Classifier
    average: Average
    optimizer: torch.optim.Optimizer
    progress: Progress
    git: str  # as the run began, whatever is edited meanwhile

    def say(self, text: str) -> None:
        """Print on rank 0."""
        if self.rank == 0:
            tqdm.write(text)

    def save(self, progress: Progress) -> None:
        """Rank 0 writes last.pt. OSError if the disk is full."""
        if self.rank == 0:
            parts: dict[str, Any] = {"model": self.classifier, "average": self.average.averaged, "optimizer": self.optimizer}
            states = {name: part.state_dict() for name, part in parts.items()}
            save_state(self.out / STATE, progress, self.params, self.data, **states)

    def save_or_warn(self, progress: Progress) -> None:
        """Save within an epoch: a full disk is said, and not the end."""
        try:
            self.save(progress)
        except OSError as error:
            self.say(f"warning: step {progress.step} was not saved ({error}); {self.out / STATE} keeps the state before")

    def learner(self, epoch: int) -> nn.Module:
        """The network as `epoch` (from 0) trains it, on all ranks; what is frozen keeps its batch statistics, too."""
        frozen = freeze(self.classifier, self.params, epoch)
        model = DistributedDataParallel(self.classifier) if dist.is_initialized() else self.classifier
        model.train()
        for module in frozen:
            module.eval()
        return model

    @property
    def autocast(self) -> torch.autocast:
        """The precision of forward passes."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.params.precision == "bfloat16")


def start_process_group() -> tuple[int, int, torch.device]:
    """(rank, world size, device) of this process: torchrun's where it started us, else 0, 1."""
    rank, world_size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    local_rank, local_size = int(os.environ.get("LOCAL_RANK", 0)), int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    device = torch.device("cuda", local_rank) if torch.cuda.is_available() else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    elif local_size > 1:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // local_size))
    if "WORLD_SIZE" in os.environ and not dist.is_initialized():
        store = next(rendezvous("env://"))[0]
        if os.environ.get("GROUP_WORLD_SIZE") == "1":
            # torchrun keeps one store over its restarts, with the addresses of ranks that are no more
            store = PrefixStore(f"start {os.environ.get('TORCHELASTIC_RESTART_COUNT')}", store)
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=world_size)
    return rank, world_size, device


def read_data_once(root: Path | None, params: Params) -> Data:
    """The data set; the first rank of each machine reads all photos and fills the cache, the others wait and read that.

    ValueError if the machines do not have the same photos.
    """
    waits = int(os.environ.get("LOCAL_RANK", 0)) > 0
    if not dist.is_initialized():
        return read_data(root, params.val_fraction, params.seed, Path("build/photo-hashes"))
    if waits:
        agree(0)
    data = read_data(root, params.val_fraction, params.seed, Path("build/photo-hashes"))
    if not waits:
        agree(0)
    fingerprints = [""] * dist.get_world_size()
    dist.all_gather_object(fingerprints, data.fingerprint)
    if len(set(fingerprints)) > 1:
        raise ValueError(f"the machines hold different photos: fingerprints by rank {[f[:12] for f in fingerprints]}")
    return data


def find_state(params: Params, data: Data, out: Path, anew: bool) -> dict[str, Any] | None:
    """The state in `out`; with `anew`, one that is not to be gone on with is deleted, with its run's records."""
    state = load_state(out / STATE)
    if state is None or not anew:
        return state
    try:
        check_same_run(state, params, data, out)
        if not state["progress"]["finished"]:
            return state
    except ValueError as error:
        print(f"starting over: {error}")
    for name in (STATE, *RECORDS):
        (out / name).unlink(missing_ok=True)
    return None


def start(root: Path | None, params: Params, out: Path, anew: bool = False) -> Run:
    """A new run, or the one in `out` where it stopped; with `anew` only if that is the same and not finished.

    ValueError for data, parameters or a state that cannot work.
    """
    if params.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(params.deterministic, warn_only=True)
    # only for code that reads what it has not written; costs a sixth of a step
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = not params.deterministic
    rank, world_size, device = start_process_group()
    data = read_data_once(root, params)
    states = [find_state(params, data, out, anew) if rank == 0 else None]
    if dist.is_initialized():
        dist.broadcast_object_list(states, device=torch.device("cpu"))
    state = states[0]
    if state is not None:
        check_same_run(state, params, data, out)
    torch.manual_seed(params.seed)
    classifier, spec = build(params, len(data.labels), load_weights=state is None)
    average = Average(copy.deepcopy(classifier).to(device), classifier.to(device), params.ema_decay)
    optimizer = torch.optim.AdamW(parameter_groups(classifier, params), fused=True)
    progress = Progress()
    if state is not None:
        classifier.load_state_dict(state["model"])
        average.averaged.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        progress = Progress(**state["progress"])
    if params.compile:
        classifier.compile()
    return Run(rank, world_size, device, params, data, out, spec, classifier, average, optimizer, progress, git_commit())
