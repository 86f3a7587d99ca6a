"""What to do about the errors of torch, the machine and the container, in a sentence each. Imported by commands."""

import errno
from typing import NamedTuple

import torch

from scripts.errors import FullDiskError, is_full


class Remedy(NamedTuple):
    """What is wrong and what to do; `setting`, if there is one, is a hyper-parameter that would do, too."""

    text: str
    setting: str = ""

    @property
    def for_training(self) -> str:
        """The sentence for whoever can change the parameter file."""
        return self.text + (f"; or set {self.setting} in the parameter file (params.yaml, PARAMS=)" if self.setting else "")


SMALLER = "accumulate: 2, which halves what a step needs and gives the same result,"
SHARED_MEMORY = Remedy(
    "the loader's workers ran out of shared memory (/dev/shm), of which a container has 64 MB unless it is given more: "
    "docker run --shm-size=1g",
    "workers: 0",
)
GPU_MEMORY = Remedy(
    "the GPU's memory is too small for these crops: free it (nvidia-smi shows who uses it), or take a smaller model", SMALLER
)
MEMORY = Remedy("there is too little memory for these crops: free some, or take a smaller model", SMALLER)
WORKER = Remedy("a worker of the loader was killed, most often for want of memory: free some", "fewer workers")
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
    "NVIDIA driver": Remedy(
        "the GPU's driver and PyTorch do not fit: nvidia-smi shows the driver; CUDA_VISIBLE_DEVICES= goes without GPU"
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
            return None if isinstance(cause, FullDiskError) else Remedy(f"the disk is full ({cause}): make room")
        cause = cause.__cause__
    if isinstance(error, RuntimeError | ConnectionError):
        return next((known for part, known in BY_MESSAGE.items() if part in str(error)), None)
    return None
