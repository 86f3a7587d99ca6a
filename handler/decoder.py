"""A process that decodes photos and does nothing else: handler/decoders.py starts some, so that one may die or hang alone.

Imports what preprocess.py needs, and no network's library: some 30 MB. Reads one photo after the other from the socket that is its
standard input, or from a file whose descriptor comes by it, and answers each; ends with the worker, whose end of the socket closes
then. Messages are JSON and pixels, never pickles: whoever takes over this process by a photo gets no further.
"""

import contextlib
import json
import os
import resource
import signal
import socket
import struct
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from PIL import AvifImagePlugin

from handler.cost import MEGABYTE, Cost, estimate
from handler.errors import PhotoError
from handler.handed import read_file
from handler.photo_file import open_photo
from handler.preprocess import Spec, crop, decode, reduction, resized_side

# bytes of the photo, which follow or are those of a file, bytes of memory and seconds of CPU that it may cost
REQUEST = struct.Struct("<Qqd")
# bytes of the JSON, and of the crop that follows it
REPLY = struct.Struct("<II")
# the limit on memory is this far above an estimate; a process that keeps half of it is replaced
SPARE_MEMORY = 64 * MEGABYTE
# an estimate is for a core that is as fast as the one that was measured
SPARE_CPU = 4.0
# so far may the process's clock be off
COARSE_S = 0.02


def start() -> None:
    """Answer until the socket is closed: the process that handler/decoders.py starts, with its spec and memory as arguments."""
    warnings.filterwarnings("ignore", module=r"PIL\.")
    # a thread for each core would take part of the memory limit each
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1
    with contextlib.suppress(OSError):  # where memory is short all the same, it is not the worker that is to end
        Path("/proc/self/oom_score_adj").write_text("1000")
    worker = socket.socket(fileno=os.dup(0))
    spec, most_memory = Spec.from_dict(json.loads(sys.argv[1])), int(sys.argv[2])
    with contextlib.suppress(ConnectionError):  # the worker was killed, and its socket went with what it had not read
        _serve(worker, spec, most_memory)


def _serve(worker: socket.socket, spec: Spec, most_memory: int) -> None:
    base = _data_bytes()
    _reply(worker, {})  # it has started
    # no byte beyond a photo's own is read: the next one may follow it
    while len((received := socket.recv_fds(worker, REQUEST.size, 1, socket.MSG_WAITALL))[0]) == REQUEST.size:
        head, files, *_ = received
        length, memory, cpu_s = REQUEST.unpack(head)
        photo_bytes = _of_file(files[0], length) if files else _of_socket(worker, length)
        _limit_memory(base + length + most_memory)
        # whatever takes longer is a hang, and the signal ends the process
        before_all = time.process_time()
        signal.setitimer(signal.ITIMER_PROF, SPARE_CPU * cpu_s)
        before = time.thread_time()  # while the timer is set, the process's own clock is coarse
        answer, pixels = _answer(photo_bytes, spec, Cost(memory, cpu_s), base + length)
        signal.setitimer(signal.ITIMER_PROF, 0)
        del photo_bytes
        took = time.thread_time() - before
        if (of_all := time.process_time() - before_all) > took + COARSE_S:  # a HEIF is decoded in threads of its library
            took = of_all
        last = _data_bytes() > base + SPARE_MEMORY // 2
        _reply(worker, {**answer, "cpu_s": took, "last": last}, pixels)


def _of_socket(worker: socket.socket, length: int) -> bytes:
    """The next bytes; fewer if the worker has ended."""
    whole = worker.recv(length, socket.MSG_WAITALL)
    while len(whole) < length and (more := worker.recv(length - len(whole), socket.MSG_WAITALL)):  # it was stopped for a while
        whole += more
    return whole


def _of_file(descriptor: int, length: int) -> bytes:
    try:
        return read_file(descriptor, length)
    finally:
        os.close(descriptor)


def _answer(photo_bytes: bytes, spec: Spec, limit: Cost, base: int) -> tuple[dict[str, Any], bytes | memoryview]:
    """({"size"}, the crop), ({"cost"}, nothing) for a photo that costs more than the limit, or why there is no crop."""
    try:
        image = open_photo(photo_bytes)
        factor = reduction(image, resized_side(spec))
        cost = estimate(image, photo_bytes, factor)
        if not cost.within(limit):
            return {"cost": [cost.memory, cost.cpu_s]}, b""
        _limit_memory(base + cost.memory)
        photo = decode(image, factor)
        return {"size": photo.size}, np.ascontiguousarray(crop(photo, spec)).data.cast("B")
    except PhotoError as error:
        return {"status": error.status, "message": str(error), "out_of_memory": isinstance(error.__cause__, MemoryError)}, b""
    except MemoryError:
        return {"status": 422, "message": "the photo cannot be decoded: out of memory", "out_of_memory": True}, b""


def _reply(worker: socket.socket, answer: dict[str, Any], pixels: bytes | memoryview = b"") -> None:
    body = json.dumps(answer).encode()
    send_both(worker, REPLY.pack(len(body), len(pixels)) + body, pixels)


def send_both(to: socket.socket, head: bytes, rest: bytes | memoryview) -> None:
    """Send one after the other, by one call where there is room: whoever reads them wakes once.

    They are not put together, which would copy them into new memory: that is slower than all else here.
    """
    sent = to.sendmsg([head, rest])
    for part, before in ((head, 0), (rest, len(head))):
        if sent < before + len(part):
            to.sendall(memoryview(part)[max(0, sent - before) :])


def _limit_memory(size: int) -> None:
    resource.setrlimit(resource.RLIMIT_DATA, (size + SPARE_MEMORY, resource.RLIM_INFINITY))


def _data_bytes() -> int:
    """What RLIMIT_DATA counts of this process now; 0 where the system does not tell."""
    with contextlib.suppress(OSError), Path("/proc/self/statm").open("rb", buffering=0) as file:
        return int(file.read().split()[5]) * resource.getpagesize()
    return 0
