"""The processes of a run on this machine: how many there can be, and torchrun's agent that starts them, and again if one dies.

torchrun as a library and not as a command: it would end each Ctrl-C, and each wrong parameter, in a page of traceback, and start
again a run whose parameters are wrong.
"""

import ctypes
import logging
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress

import psutil
import torch
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from scripts.phrases import counted

MAX_RESTARTS = 3
# a rank's signal to the agent: do not start the ranks again, as they would fail again
FINAL = signal.SIGUSR1
SAVE_S = 120  # for ranks to end their step and save after a signal, before they are killed
BY_US = "SEEFOOD_LAUNCHED"  # in the environment of ranks that launch() has started
PR_SET_PDEATHSIG = 1  # linux/prctl.h


def number_of_processes(text: str) -> int:
    """`text` as a number of processes that this machine has GPUs for, or without any GPU, cores. ValueError if it is none."""
    gpus, cores = torch.cuda.device_count() if torch.cuda.is_available() else 0, len(os.sched_getaffinity(0))
    shown = os.environ.get("CUDA_VISIBLE_DEVICES")
    found = counted(gpus, "GPU") if gpus else f"no GPU and {counted(cores, 'CPU core')}"
    found += f" (CUDA_VISIBLE_DEVICES is {shown!r})" if shown is not None else ""
    most = gpus or cores
    if not text.isascii() or not text.isdecimal() or not 1 <= int(text) <= most:
        raise ValueError(f"GPUS={text}: expected a number from 1 to {most}, as PyTorch finds {found} here")
    return int(text)


def launch(processes: int, arguments: Sequence[str]) -> int:
    """Run `python -m training.train` with these arguments as so many ranks; the exit status. No rank outlives this call."""
    # a store of its own for each start of the ranks: they would otherwise get the addresses of ranks that have ended
    os.environ |= {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1", BY_US: "1"}
    os.environ.setdefault(
        "OMP_NUM_THREADS", "1"
    )  # as torchrun does; on a CPU training/run.py gives each rank its share of the cores
    for name in logging.root.manager.loggerDict:
        if name.startswith("torch.distributed.elastic"):  # each has a level of its own
            logging.getLogger(name).setLevel(logging.ERROR)
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        run_id="training",
        max_restarts=MAX_RESTARTS,
        signals_to_handle="SIGTERM,SIGINT,SIGHUP,SIGUSR1",
        shutdown_timeout=SAVE_S,
    )
    try:
        # torch takes a $ for the start of a macro
        elastic_launch(config, sys.executable)("-u", "-m", "training.train", *(word.replace("$", "$$") for word in arguments))
    except SignalException as stop:
        return 1 if stop.sigval == FINAL else 128 + stop.sigval
    except ChildFailedError as error:
        status = error.get_first_failure()[1].exitcode
        return 128 - status if status < 0 else status
    finally:
        # of a second Ctrl-C, which breaks off the wait for them
        for process in psutil.Process().children(recursive=True):
            with suppress(psutil.Error):
                process.kill()
    return 0


def follow_launcher() -> None:
    """For a rank: a SIGTERM, so that it saves, if the process that launched it is killed."""
    if BY_US in os.environ and sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def end_for_good() -> None:
    """For a rank with an error that would come again: the agent ends all ranks, and starts none."""
    if BY_US in os.environ:
        os.kill(os.getppid(), FINAL)
