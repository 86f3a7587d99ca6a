"""Photos -> crops in processes of their own (decoder.py), within a budget of memory and CPU.

A photo whose decoder dies or hangs is answered with an error, and another decoder takes its place. What is decoded at a time
takes no more than `decode_memory_mb` by its estimates (cost.py), and a batch no more CPU than `batch_cpu_s`: cheap photos first.
"""

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from queue import LifoQueue
from typing import Any

import numpy as np

from handler.cost import MEGABYTE, Cost
from handler.decoder import REPLY, REQUEST
from handler.errors import PhotoError
from handler.handed import HandedPhoto, Photo
from handler.limits import format_of
from handler.metrics import Metrics
from handler.photo_file import missing_readers
from handler.preprocess import Spec

CODE = "import sys; sys.path.insert(0, sys.argv.pop()); from handler.decoder import start; start()"
# of the worker's environment, all that a decoder gets: it reads hostile bytes, and keys are none of its business
ENVIRONMENT = ("LD_LIBRARY_PATH", "PATH", "SYSTEMROOT")
# what is freed goes back to the system: glibc would keep up to 67 MB of a big photo's, and the decoder would be replaced for that.
# Below 8 MB memory is used again: new one would take a WebP of a megapixel a third more time
SETTINGS = {
    "OPENBLAS_NUM_THREADS": "1",
    "MALLOC_MMAP_THRESHOLD_": str(8 * MEGABYTE),
    "MALLOC_TRIM_THRESHOLD_": str(16 * MEGABYTE),
}
SOCKET_BYTES = MEGABYTE
# a decoder starts in 0.3 s; a machine may be busy
START_S = 60.0


@dataclass(frozen=True)
class Decoded:
    """A photo's crop uint8 (H, W, 3), the (width, height) of what it was cropped from, when that began, and how long it took.

    `started` is the monotonic clock's, which all processes of a machine share.
    """

    crop: np.ndarray
    size: tuple[int, int]
    started: float
    seconds: float


@dataclass(frozen=True)
class Budget:
    """What decoding may take: `decoders` processes, bytes of memory at a time, CPU seconds a batch, and seconds until a hang."""

    decoders: int
    memory: int
    batch_cpu_s: float
    batch_size: int
    batch_s: float

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "Budget":
        """Budget of model-config.yaml's content. ValueError naming the value that is missing or out of range."""
        handler, timeout_s = config["handler"], config["responseTimeout"]
        ranges = {"decoders": (1, 64), "decode_memory_mb": (64, 1_000_000), "batch_cpu_s": (0.1, timeout_s / 6)}
        for name, (least, most) in ranges.items():
            value = handler.get(name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
                raise ValueError(f"model-config.yaml: {name} is {value}, expected a number from {least} to {most:g}")
        if not isinstance(handler["decoders"], int):
            raise ValueError(f"model-config.yaml: decoders is {handler['decoders']}, expected a whole number")
        memory = int(handler["decode_memory_mb"] * MEGABYTE)
        return cls(handler["decoders"], memory, handler["batch_cpu_s"], config["batchSize"], timeout_s * 2 / 3)

    def photo(self, image_format: str) -> Cost:
        """The most that one photo of a format may cost: two such ones take turns in a batch.

        A HEIF may take all of a batch's CPU: no library decodes one at a smaller scale, and it is what most phones write.
        """
        return Cost(self.memory, self.batch_cpu_s if image_format == "HEIF" else self.batch_cpu_s / 2)

    @property
    def cheap(self) -> Cost:
        """So little that a batch of nothing else, on all decoders, is within the budget."""
        return Cost(self.memory // self.decoders, self.batch_cpu_s / self.batch_size)


class Decoder:
    """One process. Not for two threads at a time."""

    def __init__(self, spec: Spec, most_memory: int) -> None:
        self._arguments = [json.dumps(spec.to_dict()), str(most_memory)]
        self._start()

    def _start(self) -> None:
        """Start a process; that it has started is awaited under the next photo."""
        ours, theirs = socket.socketpair()
        for end in (ours, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BYTES)
        folder = str(Path(__file__).resolve().parent.parent)
        with theirs:
            # -I: nothing of the working directory, and none of Python's variables
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-c", CODE, *self._arguments, folder],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                env={name: os.environ[name] for name in ENVIRONMENT if name in os.environ} | SETTINGS,
            )
        self._socket, self._started = ours, False
        self._end = weakref.finalize(self, _end, self._process, ours)

    def has_started(self, timeout_s: float) -> bool:
        """Whether it can take a photo, at the latest after that time."""
        if self._process.poll() is not None:  # it was killed while it had nothing to do
            self.replace()
        if not self._started:
            try:
                self._receive(time.monotonic() + timeout_s)
            except TimeoutError:
                return False
            except (OSError, EOFError):
                self.replace()
                return False
            self._started = True
        return True

    def ask(self, photo: Photo, limit: Cost, timeout_s: float) -> tuple[dict[str, Any], bytearray] | None:
        """The decoder's answer to a photo: decoder.py. None if it ended or took too long; then another one is starting."""
        deadline = time.monotonic() + timeout_s
        try:
            self._socket.settimeout(timeout_s)
            head = REQUEST.pack(len(photo), limit.memory, limit.cpu_s)
            if isinstance(photo, HandedPhoto):
                socket.send_fds(self._socket, [head], [photo.fileno()])
            else:
                self._socket.sendall(head)
                self._socket.sendall(photo)
            answer, pixels = self._receive(deadline)
        except (OSError, EOFError):  # a time-out is an OSError
            self.replace()
            return None
        if answer["last"]:
            self.replace()
        return answer, pixels

    def _receive(self, deadline: float) -> tuple[dict[str, Any], bytearray]:
        body_bytes, pixel_bytes = REPLY.unpack(self._read(REPLY.size, deadline))
        return json.loads(self._read(body_bytes, deadline)), self._read(pixel_bytes, deadline)

    def _read(self, count: int, deadline: float) -> bytearray:
        whole = bytearray(count)
        left = memoryview(whole)
        while left:
            self._socket.settimeout(max(0.001, deadline - time.monotonic()))
            got = self._socket.recv_into(left)
            if not got:
                raise EOFError("it ended")
            left = left[got:]
        return whole

    def replace(self) -> None:
        """End the process, if it has not ended by itself, and start another."""
        self._end()
        self._start()

    @property
    def pid(self) -> int:
        """The process's id, for tests and measurements."""
        return int(self._process.pid)


def _end(process: subprocess.Popen[bytes], ours: socket.socket) -> None:
    process.kill()
    process.wait()
    ours.close()


class Decoders:
    """The decoders of a worker."""

    def __init__(self, spec: Spec, budget: Budget, metrics: Metrics) -> None:
        """Start them. ValueError if they do not start, or if a library that reads photos is not there."""
        if missing := missing_readers():
            raise ValueError(f"photos cannot be read without {', '.join(missing)}: install the project's dependencies again")
        self.budget, self._metrics = budget, metrics
        size = spec.input_size[1]
        self._shape = (size, size, 3)
        self.processes = [Decoder(spec, budget.memory) for _ in range(budget.decoders)]
        # the last that was used is the next: its memory is warm
        self._idle: LifoQueue[Decoder] = LifoQueue()
        for decoder in self.processes:
            if not decoder.has_started(START_S):
                raise ValueError(f"a process that decodes photos did not start within {START_S:g} s, or ended at once")
            self._idle.put(decoder)
        self._threads = ThreadPoolExecutor(budget.decoders, thread_name_prefix="decode")
        self._memory, self._memory_freed = budget.memory, threading.Condition()

    def decode(self, photos: Sequence[Photo]) -> tuple[list[Decoded | PhotoError], float]:
        """(each photo's crop, or why there is none; the CPU seconds that they took)."""
        batch = _Batch(time.monotonic() + self.budget.batch_s)
        # most photos are cheap and answered here; of the others this gives the cost
        outcomes = self._all([partial(self._one, batch, photo, self.budget.cheap) for photo in photos])
        costly = sorted(((cost, i) for i, cost in enumerate(outcomes) if isinstance(cost, Cost)), key=lambda pair: pair[0].cpu_s)
        admitted: list[int] = []
        planned = batch.cpu_s
        for cost, i in costly:
            most = self.budget.photo(str(format_of(bytes(photos[i]))))
            if not cost.within(most):
                outcomes[i] = _too_costly(cost, most)
            elif admitted and planned + cost.cpu_s > self.budget.batch_cpu_s:
                outcomes[i] = _busy()
            else:
                planned += cost.cpu_s
                admitted.append(i)
        for i, outcome in zip(
            admitted, self._all([partial(self._costly, batch, photos[i], outcomes[i]) for i in admitted]), strict=True
        ):
            outcomes[i] = outcome
        return outcomes, batch.cpu_s

    def _all(self, jobs: Sequence[Callable[[], Any]]) -> list[Any]:
        return [job() for job in jobs] if len(jobs) == 1 else list(self._threads.map(lambda job: job(), jobs))

    def _costly(self, batch: "_Batch", photo: Photo, cost: Cost) -> Any:
        with self._taken(cost.memory):
            return self._one(batch, photo, cost)

    @contextlib.contextmanager
    def _taken(self, memory: int) -> Iterator[None]:
        """Inside, so much of the memory is taken; waits until it is free."""
        with self._memory_freed:
            self._memory_freed.wait_for(lambda: self._memory >= memory)
            self._memory -= memory
        try:
            yield
        finally:
            with self._memory_freed:
                self._memory += memory
                self._memory_freed.notify_all()

    def _one(self, batch: "_Batch", photo: Photo, limit: Cost) -> Any:
        """A photo's crop, its cost if that is over the limit, or why there is neither."""
        # so often may hung photos come one after the other before the batch's time is up
        timeout_s = min(self.budget.batch_s / 4, batch.deadline - time.monotonic())
        if timeout_s <= 0 or batch.cpu_s > self.budget.batch_cpu_s:
            return _busy()
        started, decoder = time.monotonic(), self._idle.get()
        try:
            if not decoder.has_started(timeout_s):
                return _busy()
            replied = decoder.ask(photo, limit, timeout_s)
        finally:
            self._idle.put(decoder)
        if replied is None:
            batch.spend(limit.cpu_s)
            self._metrics.decoder_died()
            return PhotoError("the photo cannot be decoded: its decoder ended or took too long; save it anew, or send another")
        answer, pixels = replied
        batch.spend(answer["cpu_s"])
        if "cost" in answer:
            return Cost(*answer["cost"])
        seconds = time.monotonic() - started
        self._metrics.decoded(seconds)
        if "size" in answer:
            width, height = answer["size"]
            return Decoded(np.frombuffer(pixels, np.uint8).reshape(self._shape), (width, height), started, seconds)
        if answer["out_of_memory"]:
            self._metrics.decoder_died()
        return PhotoError(answer["message"], answer["status"])


class _Batch:
    """What a batch has taken until now. Safe to call from threads."""

    def __init__(self, deadline: float) -> None:
        self.deadline, self.cpu_s = deadline, 0.0
        self._lock = threading.Lock()

    def spend(self, cpu_s: float) -> None:
        with self._lock:
            self.cpu_s += cpu_s


def _too_costly(cost: Cost, most: Cost) -> PhotoError:
    if cost.memory > most.memory:
        found, limit = f"{cost.memory / MEGABYTE:,.0f} MB of memory", f"{most.memory / MEGABYTE:,.0f} MB"
    else:
        found, limit = f"{cost.cpu_s:.2f} s of CPU", f"{most.cpu_s:.2f} s"
    return PhotoError(f"the photo takes {found} to decode, the limit is {limit}: send it smaller, or as a baseline JPEG", 413)


def _busy() -> PhotoError:
    return PhotoError("too many costly photos at a time: send this one again in a few seconds, or smaller", 503)
