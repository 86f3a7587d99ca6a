"""What `make bench-gpu` measures: programs, decoding, both together, and the share of the time in which the GPU has nothing to do.

Each function takes the device, so that all but the capture of a CUDA graph and nvJPEG itself can be tried on a CPU.
"""

import itertools
import os
import statistics
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.export.passes import move_to_device_pass
from torch.nn.functional import interpolate
from torch.profiler import ProfilerActivity, profile

from handler.preprocess import Spec, layout, preprocess
from handler.program import Answers, TorchProgram

BATCH_SIZES = (1, 8, 32)
HALVES = {"bf16": torch.bfloat16, "f16": torch.float16}
PRECISIONS = ("f32", *HALVES)
WARM_UP = 3  # calls, on a stream of their own before a capture: libraries choose their kernels and take their memory
PROFILED = 10  # batches

Crops = np.ndarray | Tensor  # uint8 (B, H, W, 3)
Decode = Callable[[Sequence[bytes]], Crops]
Row = dict[str, Any]


def load_module(path: Path, device: torch.device) -> Callable[[Tensor], Sequence[Tensor]]:
    """An exported torch program on a device, as handler/program.py has it."""
    program = torch.export.load(path)
    return (program if device.type == "cpu" else move_to_device_pass(program, device)).module()


def wait(device: torch.device) -> None:
    """Until the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class FixedBatch:
    """A program for batches of one size, in buffers that stay; on a GPU a CUDA graph, which launches all kernels at once."""

    def __init__(
        self, module: Callable[[Tensor], Sequence[Tensor]], precision: str, batch_size: int, spec: Spec, device: torch.device
    ) -> None:
        self._module, self._half, self._device = module, HALVES.get(precision), device
        shape = (batch_size, *spec.input_size[1:], 3)
        self._host = torch.zeros(shape, dtype=torch.uint8, pin_memory=device.type == "cuda")
        self._crops = self._host.to(device)
        self._outputs = self._run()
        self._launch: Callable[[], None] = self._again
        if device.type == "cuda":
            graph = torch.cuda.CUDAGraph()
            side = torch.cuda.Stream(device)
            side.wait_stream(torch.cuda.current_stream(device))
            with torch.cuda.stream(side):
                for _ in range(WARM_UP):
                    self._run()
            torch.cuda.current_stream(device).wait_stream(side)
            with torch.cuda.graph(graph):
                self._outputs = self._run()
            self._launch = graph.replay

    def _run(self) -> tuple[Tensor, ...]:
        # no cache of weights in half precision: a graph would replay with the copies of another call, which are freed
        half = torch.autocast(self._device.type, self._half or torch.bfloat16, enabled=self._half is not None, cache_enabled=False)
        with torch.inference_mode(), half:
            return tuple(output.float() for output in self._module(self._crops))

    def _again(self) -> None:
        self._outputs = self._run()

    def __call__(self, crops: Crops) -> Answers:
        """The answers to a batch of this size, of either memory."""
        with torch.inference_mode():
            if isinstance(crops, Tensor):
                self._crops.copy_(crops)
            else:
                self._host.copy_(torch.from_numpy(crops))
                self._crops.copy_(self._host, non_blocking=True)
            self._launch()
            return Answers(*(output.cpu().numpy() for output in self._outputs))


def row(what: str, batch_size: int, figures: Callable[[], Row]) -> Row:
    """What was measured, with its figures, or with an "error" in one line where that failed."""
    named: Row = {"what": what, "batch_size": batch_size}
    try:
        return named | figures()
    except Exception as error:  # torch raises types of many kinds; the other rows are measured all the same
        return named | {"error": (str(error).strip().splitlines() or [type(error).__name__])[0][:300]}


def timed(call: Callable[[], object], photos: int, seconds: float) -> Row:
    """{"photos_per_s", "p50_ms"} of calls for so many photos, one after the other, over some seconds."""
    for _ in range(WARM_UP):
        call()
    taken: list[float] = []
    end = time.perf_counter() + seconds
    while (before := time.perf_counter()) < end or not taken:
        call()
        taken.append(time.perf_counter() - before)
    return {"photos_per_s": photos * len(taken) / sum(taken), "p50_ms": 1000 * statistics.median(taken)}


def time_programs(path: Path, spec: Spec, device: torch.device, seconds: float) -> list[Row]:
    """A row for each precision and size of batch: as it is served, and by FixedBatch. Crops in, answers out, in the CPU's memory.

    "off" is the largest difference of a probability from float32's.
    """
    module, each = load_module(path, device), seconds / (2 * len(PRECISIONS) * len(BATCH_SIZES))
    served = {precision: cache(partial(TorchProgram, path, precision, 0)) for precision in PRECISIONS}
    fixed = "CUDA graph" if device.type == "cuda" else "buffers that stay"

    def figures(crops: np.ndarray, make: Callable[[], Callable[[np.ndarray], Answers]]) -> Row:
        answer = make()
        off = float(np.abs(answer(crops).probabilities - expected).max())
        return {"off": off} | timed(partial(answer, crops), len(crops), each)

    rows = []
    for batch_size in BATCH_SIZES:
        crops = np.random.default_rng(0).integers(0, 256, (batch_size, *spec.input_size[1:], 3), np.uint8)
        expected = served["f32"]()(crops).probabilities
        for precision in PRECISIONS:
            staying = partial(FixedBatch, module, precision, batch_size, spec, device)
            rows.append(row(f"{precision}, as served", batch_size, partial(figures, crops, served[precision])))
            rows.append(row(f"{precision}, {fixed}", batch_size, partial(figures, crops, staying)))
    return rows


def by_threads(spec: Spec, pool: ThreadPoolExecutor) -> Decode:
    """preprocess(), a thread a photo."""
    return lambda photos: np.stack(list(pool.map(lambda photo: preprocess(photo, spec), photos)))


def by_torchvision(spec: Spec, device: torch.device) -> Decode:
    """torchvision's decoder, on a GPU nvJPEG; resized and cropped there. No EXIF orientation, no ICC profile, JPEG alone."""
    from torchvision.io import ImageReadMode, decode_jpeg

    def decode(photos: Sequence[bytes]) -> Tensor:
        stored = [torch.from_numpy(np.frombuffer(photo, np.uint8).copy()) for photo in photos]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torchvision 0.29 names TorchCodec as what comes after it
            images = decode_jpeg(stored, ImageReadMode.RGB, device=device)
        return torch.stack([crop(image, spec) for image in images])

    return decode


def crop(image: Tensor, spec: Spec) -> Tensor:
    """handler.preprocess.crop of uint8 (3, H, W) on any device: uint8 (size, size, 3). Within a level or two of it."""
    size = spec.input_size[1]
    (width, height), (left, top) = layout((image.shape[2], image.shape[1]), spec)
    mode = "bilinear" if spec.interpolation == "bilinear" else "bicubic"
    resized = interpolate(image[None].float(), (height, width), mode=mode, antialias=True)[0].round().clamp(0, 255)
    return resized[:, top : top + size, left : left + size].byte().permute(1, 2, 0)


def pipeline(decode: Decode, answer: Callable[[Crops], object], batches: Iterable[Sequence[bytes]]) -> Iterator[float]:
    """Answer batches of photos; while one is on the device the next is decoded. Yields each one's seconds from bytes to answers."""
    with ThreadPoolExecutor(1) as ahead:
        waiting: deque[tuple[float, Future[Crops]]] = deque()
        for batch in batches:
            waiting.append((time.perf_counter(), ahead.submit(decode, batch)))
            if len(waiting) > 1:
                yield _answered(answer, *waiting.popleft())
        while waiting:
            yield _answered(answer, *waiting.popleft())


def _answered(answer: Callable[[Crops], object], begun: float, decoded: "Future[Crops]") -> float:
    answer(decoded.result())
    return time.perf_counter() - begun


def union_s(spans: Iterable[tuple[float, float]]) -> float:
    """The time that spans (start, end) cover together, in their unit: what overlaps counts once."""
    covered, until = 0.0, float("-inf")
    for start, end in sorted(spans):
        covered += max(0.0, end - max(start, until))
        until = max(until, end)
    return covered


def busy_s(work: Callable[[], object], device: torch.device) -> float:
    """Seconds in which the device computes or copies during `work`, by the spans of its kernels. ValueError if none is seen."""
    activity = ProfilerActivity.CUDA if device.type == "cuda" else ProfilerActivity.CPU
    with profile(activities=[activity]) as profiler:
        work()
        wait(device)
    spans = [
        (event.time_range.start, event.time_range.end)
        for event in profiler.events() or ()
        if event.device_type.name.lower() == device.type and not event.is_user_annotation
    ]
    if not spans:
        raise ValueError(f"torch's profiler sees no kernel on {device}: the driver may allow it to root alone")
    return union_s(spans) / 1e6


def time_decoding(photos: Sequence[bytes], spec: Spec, device: torch.device, seconds: float, batch_size: int = 32) -> list[Row]:
    """A row for each way to decode batches. "off" is the mean difference of its crops from preprocess()'s, in levels of 255."""
    batch = batch_of(photos, batch_size)
    expected = np.stack([preprocess(photo, spec) for photo in batch]).astype(int)

    def figures(decode: Decode) -> Row:
        crops = decode(batch)
        given = crops.cpu().numpy() if isinstance(crops, Tensor) else crops

        def whole() -> None:
            decode(batch)
            wait(device)

        off = float(np.abs(given.astype(int) - expected).mean())
        return {"off": off} | timed(whole, batch_size, seconds / len(ways))

    with ThreadPoolExecutor(cores()) as pool:
        ways = ways_to_decode(spec, device, pool)
        return [row(name, batch_size, partial(figures, decode)) for name, decode in ways.items()]


def time_pipelines(
    path: Path, photos: Sequence[bytes], spec: Spec, device: torch.device, seconds: float, batch_size: int = 32
) -> list[Row]:
    """A row for each way to decode, with the network in bf16 after it. "idle" is the share of the time without work on the device.

    A batch's busy time is of a profiled run and its duration is not: the profiler delays the CPU, and no kernel.
    """
    answer = FixedBatch(load_module(path, device), "bf16", batch_size, spec, device)
    batch = batch_of(photos, batch_size)

    def figures(decode: Decode) -> Row:
        list(pipeline(decode, answer, [batch] * WARM_UP))
        begun = time.perf_counter()
        in_time = itertools.takewhile(lambda _: time.perf_counter() - begun < seconds / len(ways), itertools.repeat(batch))
        latencies = list(pipeline(decode, answer, in_time))
        batch_s = (time.perf_counter() - begun) / len(latencies)
        busy = busy_s(lambda: list(pipeline(decode, answer, [batch] * PROFILED)), device) / PROFILED
        p50_ms = 1000 * statistics.median(latencies)
        return {"photos_per_s": batch_size / batch_s, "p50_ms": p50_ms, "idle": max(0.0, 1 - busy / batch_s)}

    with ThreadPoolExecutor(cores()) as pool:
        ways = ways_to_decode(spec, device, pool)
        return [row(f"{name}, bf16", batch_size, partial(figures, decode)) for name, decode in ways.items()]


def ways_to_decode(spec: Spec, device: torch.device, pool: ThreadPoolExecutor) -> dict[str, Decode]:
    """Each way by its name."""
    other = "nvJPEG" if device.type == "cuda" else "torchvision"
    return {f"CPU, {cores()} threads": by_threads(spec, pool), other: by_torchvision(spec, device)}


def batch_of(photos: Sequence[bytes], batch_size: int) -> list[bytes]:
    """So many photos, repeated if there are fewer."""
    return list(itertools.islice(itertools.cycle(photos), batch_size))


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0))
