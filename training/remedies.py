"""What to do about the errors of torch, the machine and the container, in a sentence each. Imported by commands."""

import errno
from typing import NamedTuple

import torch

from scripts.errors import is_full


class Remedy(NamedTuple):
    """A sentence, and whether it asks for a change of the parameter file."""

    text: str
    changes_params: bool = False


PARAMS = "in the parameter file (params.yaml, or PARAMS=)"
SMALLER = f"set accumulate: 2 {PARAMS}, which needs half of it for the same result, or a smaller global_batch_size for a new run"
SHARED_MEMORY = Remedy(
    "the loader's workers ran out of shared memory (/dev/shm; a container has 64 MB unless it is given more): "
    f"docker run --shm-size=1g, or workers: 0 {PARAMS}",
    True,
)
GPU_MEMORY = Remedy(f"the GPU's memory is too small for these crops: {SMALLER}", True)
MEMORY = Remedy(f"there is too little memory for these crops: {SMALLER}", True)
WORKER = Remedy(f"a worker of the loader was killed, most often for want of memory: fewer workers {PARAMS}", True)
PEER = Remedy(
    "another process of this run ended, see its error above; if there is none, it was killed, most often for want of memory"
)
# by a part of the message, the first that is found
BY_MESSAGE = {
    "shared memory": SHARED_MEMORY,
    "/torch_": SHARED_MEMORY,  # the name of a file in /dev/shm
    "Bus error": SHARED_MEMORY,
    "out of memory": GPU_MEMORY,
    "DataLoader worker": WORKER,
    "can't allocate memory": MEMORY,
    "closed by peer": PEER,
    "reset by peer": PEER,
    "device-side assert": Remedy("the GPU refused a value; CUDA_LAUNCH_BLOCKING=1 before the command shows the line that gave it"),
    "driver": Remedy(
        "the GPU's driver and PyTorch do not fit each other: nvidia-smi shows the driver; CUDA_VISIBLE_DEVICES= trains on the CPU"
    ),
}


def remedy(error: BaseException) -> Remedy | None:
    """What to do about an error; None if that is not known, or its own message says so."""
    if isinstance(error, torch.OutOfMemoryError):
        return GPU_MEMORY
    if isinstance(error, MemoryError):
        return MEMORY
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and (is_full(cause) or cause.errno == errno.EFBIG):
            return None if str(cause.strerror).startswith("the disk is full") else Remedy(f"the disk is full ({cause}): make room")
        cause = cause.__cause__
    if isinstance(error, RuntimeError | ConnectionError):
        return next((known for part, known in BY_MESSAGE.items() if part in str(error)), None)
    return None
