"""One process that decodes photos (decoder.py), as the worker sees it: what it is given, and what it answers."""

import contextlib
import json
import math
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
from handler.decoder import REPLY, REQUEST, send_both
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
MOST_JSON = 64 * 1024
REFUSALS = (400, 413, 415, 422)  # of a photo, as HTTP has them


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
        self._pixel_bytes = math.prod(spec.input_size)
        self.jobs: deque[Job] = deque()  # that it has, first the one that it is at, with which it `began`
        self._start()

    def _start(self) -> None:
        """Start a process, which says when it has started."""
        ours, theirs = socket.socketpair()
        for end in (ours, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BYTES)
        # the system may allow less, and counts its own bookkeeping
        self._room = ours.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) // 3
        folder = str(Path(__file__).resolve().parent.parent)
        with theirs, contextlib.ExitStack() as failing:
            failing.enter_context(ours)
            # -I: nothing of the working directory, and none of Python's variables
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-c", CODE, *self._arguments, folder],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                env={name: os.environ[name] for name in ENVIRONMENT if name in os.environ} | SETTINGS,
            )
            failing.pop_all()
        self._socket, self._end = ours, weakref.finalize(self, _end, self._process, ours)
        self.has_started = self.has_ended = False
        self.began = time.monotonic()
        self._expect(REPLY.size)
        self._lengths: tuple[int, int] | None = None  # of the answer that is being read: of its JSON, and of its pixels

    def fileno(self) -> int:
        """What can be read once it has answered, or ended."""
        return self._socket.fileno()

    @property
    def works(self) -> bool:
        """Whether it has started, and not ended as far as is known."""
        return self.has_started and not self.has_ended

    def look(self) -> None:
        """Whether it was killed while it had nothing to do shows in has_ended. One that has not started yet ends in read()."""
        self.has_ended = self.has_ended or (self.has_started and self._process.poll() is not None)

    def may_have_next(self, photo: Photo) -> bool:
        """Whether this photo can wait where the decoder finds it once it is done with the one that it has."""
        is_small = isinstance(photo, HandedPhoto) or len(photo) <= self._room  # else giving it would wait for the decoder
        return len(self.jobs) == 1 and is_small and self.works

    def give(self, job: Job, timeout_s: float) -> bool:
        """Give it a photo. False if it has ended, by no fault of this photo."""
        head = REQUEST.pack(len(job.photo), job.limit.memory, job.limit.cpu_s)
        began = time.monotonic()  # it may have decoded a small photo before this process runs again
        try:
            self._socket.settimeout(timeout_s)
            if isinstance(job.photo, HandedPhoto):
                socket.send_fds(self._socket, [head], [job.photo.fileno()])
            else:
                send_both(self._socket, head, job.photo)
        except OSError:  # a time-out is one
            self.has_ended = True
            return False
        if not self.jobs:
            self.began = began
        self.jobs.append(job)
        return True

    def read(self) -> tuple[dict[str, Any], memoryview] | None:
        """Its next answer, None while that is not whole: that it has started, or to the first of its jobs (decoder.py).

        Waits for nothing. EOFError if it has ended, or answers what decoder.py does not: a photo may have taken it over.
        """
        try:
            while True:
                got = self._socket.recv_into(memoryview(self._whole)[self._filled :], 0, socket.MSG_DONTWAIT)
                self._filled += got
                if not got:
                    raise EOFError("it ended")
                if self._filled < len(self._whole):
                    continue
                whole, lengths = self._whole, self._lengths
                if lengths is None:
                    self._lengths = json_bytes, pixel_bytes = REPLY.unpack(whole)
                    if not 0 < json_bytes <= MOST_JSON or pixel_bytes not in (0, self._pixel_bytes):
                        raise EOFError("it does not answer as decoder.py does")
                    self._expect(json_bytes + pixel_bytes)
                else:
                    self._lengths = None
                    self._expect(REPLY.size)
                    answer = json.loads(whole[: lengths[0]])
                    if self.has_started and not is_answer(answer, lengths[1] > 0):
                        raise EOFError("it does not answer as decoder.py does")
                    self.has_started = True
                    return answer, memoryview(whole)[lengths[0] :]
        except BlockingIOError:
            return None
        except (OSError, ValueError, RecursionError, OverflowError) as error:
            raise EOFError(f"it ended, or does not answer as decoder.py does: {error}") from error

    def _expect(self, count: int) -> None:
        self._whole, self._filled = bytearray(count), 0

    def replace(self) -> None:
        """End the process, if it has not ended by itself, and start another. It has ended still, where the system starts none."""
        self.jobs.clear()
        self.has_started, self.has_ended = False, True
        self._end()
        with contextlib.suppress(OSError):
            self._start()

    @property
    def pid(self) -> int:
        """The process's id, for tests and measurements."""
        return int(self._process.pid)


def is_answer(answer: Any, has_pixels: bool) -> bool:
    """Whether this is an answer to a photo as decoder.py writes them: a crop, a cost, or why there is neither."""

    def is_number(value: Any) -> bool:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0

    def are_two(values: Any, first: type, second: type) -> bool:
        return isinstance(values, list) and list(map(type, values)) == [first, second] and all(map(is_number, values))

    if not isinstance(answer, dict) or not is_number(answer.get("cpu_s")) or not isinstance(answer.get("last"), bool):
        return False
    if has_pixels:
        return are_two(answer.get("size"), int, int) and 0 not in answer["size"]
    if "size" in answer:
        return False
    is_refusal = isinstance(answer.get("message"), str) and isinstance(answer.get("out_of_memory"), bool)
    return are_two(answer.get("cost"), int, float) or (is_refusal and answer.get("status") in REFUSALS)


def _end(process: subprocess.Popen[bytes], ours: socket.socket) -> None:
    process.kill()
    process.wait()
    ours.close()
