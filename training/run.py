"""One rank's share of a run: set up, or resumed where it stopped."""

import copy
import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
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
from scripts.model_name import check_model_name
from scripts.phrases import counted
from training.data.sets import Data, read_data
from training.folder import point_latest
from training.memory import keep_freed_memory
from training.model import Classifier, build, why_refused
from training.params import Params
from training.recipe import Average, freeze, parameter_groups
from training.resume import STATE, OtherRunError, Progress, agree, check_same_run, load_state, save_state
from training.teacher import Teacher, read_trained
from training.text.encoder import EncoderTower
from training.tracking.provenance import git_commit
from training.tracking.store import RECORDS


@contextmanager
def no_terminal() -> Iterator[None]:
    """Within this `with`, what cannot be printed, as the terminal was closed, is not: the run must still be saved."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.EIO:
            raise


@dataclass
class Run:
    """What the loop works on: one rank's share of a run."""

    name: str  # of the model, e.g. food; params.model is timm's network
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
    teacher: Teacher | None
    git: str  # read once at the start: the checkout may be edited while the run trains
    saved_step: int = 0  # that of the state in last.pt

    def say(self, text: str) -> None:
        """Print on rank 0."""
        if self.rank == 0:
            with no_terminal():
                tqdm.write(text)

    def save(self, progress: Progress) -> None:
        """Rank 0 writes last.pt. OSError if the disk is full."""
        if self.rank == 0:
            parts: dict[str, Any] = {"model": self.classifier, "average": self.average.averaged, "optimizer": self.optimizer}
            states = {name: part.state_dict() for name, part in parts.items()}
            if isinstance(self.classifier.tower, EncoderTower):
                states["encoder"] = self.classifier.tower.source
            teacher = [one.sha256 for one in self.teacher.trained] if self.teacher else []
            save_state(self.out / STATE, self.name, progress, self.params, self.data, teacher, **states)
            self.saved_step = progress.step

    def save_or_warn(self, progress: Progress) -> None:
        """Save within an epoch: a full disk is a warning, as the run can go on and save later."""
        try:
            self.save(progress)
        except OSError as error:
            self.say(f"warning: step {progress.step} was not saved ({error}); {self.out / STATE} keeps the state saved before it")

    def learner(self, epoch: int) -> nn.Module:
        """The network as `epoch` (from 0) trains it, on all ranks; frozen modules keep their batch statistics, too."""
        # wrapped again each epoch: DDP's reducer expects gradients of the parameters that were trainable when it was built
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
        if local_rank >= torch.cuda.device_count():
            raise ValueError(
                f"{counted(local_size, 'process')} on {counted(torch.cuda.device_count(), 'GPU')}: expected one process a GPU"
            )
        torch.cuda.set_device(device)
    elif local_size > 1:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // local_size))
    if "WORLD_SIZE" in os.environ and not dist.is_initialized():
        store = next(rendezvous("env://"))[0]
        if os.environ.get("GROUP_WORLD_SIZE") == "1":
            # torchrun keeps one key-value store over its restarts, with the addresses of the ranks that died: without a
            # prefix for each restart new ranks would connect to those. Not with several machines, which each count their own
            # restarts: ranks with different prefixes would wait for each other
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
        return read_data(root, params.val_fraction, params.seed, params.near_duplicates)
    if waits:
        agree(0)
    quiet = dist.get_rank() > 0  # rank 0 prints what is not taken
    data = read_data(root, params.val_fraction, params.seed, params.near_duplicates, quiet=quiet)
    if not waits:
        agree(0)
    fingerprints = everywhere(data.fingerprint)
    if len(set(fingerprints)) > 1:
        raise ValueError(f"the machines hold different photos: fingerprints by rank {[f[:12] for f in fingerprints]}")
    return data


def everywhere(value: Any) -> list[Any]:
    """What each rank has, by rank."""
    if not dist.is_initialized():
        return [value]
    values = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def find_state(name: str, params: Params, data: Data, teacher: list[str], out: Path, start_over: bool) -> dict[str, Any] | None:
    """The state in `out`; with `start_over`, that of another or a finished run is deleted, with its records."""
    state = load_state(out / STATE)
    if state is None or not start_over:
        return state
    try:
        check_same_run(state, name, params, data, teacher, out)
        if not state["progress"]["finished"]:
            return state
    except OtherRunError as error:
        print(f"starting over: {error}")
    for file in (STATE, *RECORDS):
        (out / file).unlink(missing_ok=True)
    return None


def check_sizes(classifier: Classifier, spec: Spec, params: Params, world_size: int) -> None:
    """ValueError unless the network takes crops of the sizes that it trains and is evaluated on, and as many as a rank has."""
    crops_a_rank = max(1, params.global_batch_size // (params.accumulate * world_size))
    network = copy.deepcopy(classifier)  # as training mode changes it
    for mode, size, crops in ((True, params.train_size, min(2, crops_a_rank)), (False, spec.input_size[-1], 1)):
        # two crops show all that a greater batch would
        if reason := why_refused(network, size, crops, training=mode):
            name, use = ("train_size", "trains") if mode else ("spec.input_size", "is evaluated")
            raise ValueError(
                f"{params.model} cannot take {counted(crops, 'crop')} of {size} x {size} pixels, on which it {use} ({name}; "
                f"{counted(crops_a_rank, 'crop')} a step and process): {reason}"
            )


def start(name: str, root: Path | None, params: Params, out: Path, start_over: bool = False) -> Run:
    """A new run, or the one in `out` where it stopped; with `start_over` only if that is the same and not finished.

    ValueError for data, parameters or a state that cannot work.
    """
    check_model_name(name)  # before hours of training, not at their end
    if params.deterministic:
        # cuBLAS is deterministic only with a workspace of fixed size, which it reads before its first call
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(params.deterministic, warn_only=True)
    # fills new tensors with NaN to reveal code that reads memory it has not written; costs a sixth of a step
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = not params.deterministic
    rank, world_size, device = start_process_group()
    if device.type == "cpu":
        keep_freed_memory()
    if not (out / STATE).exists():
        # a wrong network, file of weights or text encoder is refused before photos are read, which may take minutes
        build(params, 2, with_text=params.text_encoder is not None)
    trained = read_trained(params)
    data = read_data_once(root, params)
    teacher = Teacher(trained, params.teacher_temperature, data.labels).to(device) if trained else None
    if teacher is not None:
        teacher.check_held_out((*data.held_out, *data.test))
    # rank 0's state is sent to all: a machine of its own may not see the folder of the run
    taught_by = [one.sha256 for one in trained]
    if any(others != taught_by for others in everywhere(taught_by)):
        raise ValueError(f"the machines hold different teachers under {params.teacher}: expected the same files")
    states = [find_state(name, params, data, taught_by, out, start_over) if rank == 0 else None]
    if dist.is_initialized():
        dist.broadcast_object_list(states, device=torch.device("cpu"))
    state = states[0]
    if state is not None:
        check_same_run(state, name, params, data, taught_by, out)
    torch.manual_seed(params.seed)
    with_text = any(photo.text for photo in data.train)
    encoder = None if state is None else state.get("encoder")
    classifier, spec = build(params, len(data.labels), state is None, data.labels, with_text, encoder)
    if rank == 0 and classifier.start:
        print(classifier.start)
    if teacher is not None:
        teacher.check_texts(spec.text)
    check_sizes(classifier, spec, params, world_size)
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
    if rank == 0:
        point_latest(out)
    return Run(
        name,
        rank,
        world_size,
        device,
        params,
        data,
        out,
        spec,
        classifier,
        average,
        optimizer,
        progress,
        teacher,
        git_commit(),
        progress.step,
    )
