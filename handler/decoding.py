"""One process that decodes photos (decoder.py), as the worker sees it: what it is given, and what it answers."""

import json
import os
import socket
import subprocess
import sys
import time
import weakref
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from handler.cost import MEGABYTE, Cost
from handler.decoder import REPLY, REQUEST
from handler.handed import HandedPhoto, Photo
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


@dataclass(frozen=True)
class Job:
    """A photo of a batch, by its place in it, and what it may cost."""

    place: int
    photo: Photo
    limit: Cost


class Decoder:
    """One process. Not for two threads at a time."""

    def __init__(self, spec: Spec, most_memory: int) -> None:
        self._arguments = [json.dumps(spec.to_dict()), str(most_memory)]
        self._start()

    def _start(self) -> None:
        """Start a process, which says when it has started."""
        ours, theirs = socket.socketpair()
        for end in (ours, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BYTES)
        # the system may allow less, and counts its own bookkeeping
        self._room = ours.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) // 3
        folder = str(Path(__file__).resolve().parent.parent)
        with theirs:
            # -I: nothing of the working directory, and none of Python's variables
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-c", CODE, *self._arguments, folder],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                env={name: os.environ[name] for name in ENVIRONMENT if name in os.environ} | SETTINGS,
            )
        self._socket, self._end = ours, weakref.finalize(self, _end, self._process, ours)
        self.jobs: deque[Job] = deque()  # that it has, first the one that it is at
        self.began = time.monotonic()  # with that one
        self.has_started = self._has_ended = False

    def fileno(self) -> int:
        """What can be read once it has answered, or ended."""
        return self._socket.fileno()

    def is_free(self) -> bool:
        """Whether it can take a photo and has none. One that was killed while it had nothing to do is replaced."""
        if not self.jobs and (self._has_ended or self._process.poll() is not None):
            self.replace()
        return self.has_started and not self.jobs

    def may_have_next(self, photo: Photo) -> bool:
        """Whether this photo can wait where the decoder finds it once it is done with the one that it has."""
        is_small = isinstance(photo, HandedPhoto) or len(photo) <= self._room  # else giving it would wait for the decoder
        return len(self.jobs) == 1 and is_small and not self._has_ended

    def give(self, job: Job, timeout_s: float) -> bool:
        """Give it a photo. False if it has ended, by no fault of this photo."""
        head = REQUEST.pack(len(job.photo), job.limit.memory, job.limit.cpu_s)
        try:
            self._socket.settimeout(timeout_s)
            if isinstance(job.photo, HandedPhoto):
                socket.send_fds(self._socket, [head], [job.photo.fileno()])
            else:
                self._socket.sendall(head)
                self._socket.sendall(job.photo)
        except OSError:  # a time-out is one
            self._has_ended = True
            return False
        if not self.jobs:
            self.began = time.monotonic()
        self.jobs.append(job)
        return True

    def wait_started(self, deadline: float) -> bool:
        """Whether it has started by then. One that has not is replaced."""
        try:
            self._receive(deadline)
        except (OSError, EOFError):
            self.replace()
            return False
        self.has_started = True
        return True

    def answer(self, deadline: float) -> tuple[dict[str, Any], memoryview] | None:
        """Its answer to the first of its jobs: decoder.py. None if it has ended or not answered by then; replace() it."""
        try:
            return self._receive(deadline)
        except (OSError, EOFError):
            return None

    def _receive(self, deadline: float) -> tuple[dict[str, Any], memoryview]:
        body_bytes, pixel_bytes = REPLY.unpack(self._read(REPLY.size, deadline))
        whole = self._read(body_bytes + pixel_bytes, deadline)
        return json.loads(whole[:body_bytes]), memoryview(whole)[body_bytes:]

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
