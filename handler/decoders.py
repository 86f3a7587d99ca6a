"""Photos -> crops in processes of their own (decoder.py), within a budget of memory and CPU.

A photo whose decoder dies or hangs is answered with an error, and another decoder takes its place. What is decoded at a time
takes no more than `decode_memory_mb` by its estimates (cost.py), and a batch no more CPU than `batch_cpu_s`: cheap photos first.
"""

import math
import select
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from handler.cost import MEGABYTE, Cost
from handler.decoder import SPARE_CPU
from handler.decoding import Decoder, Job
from handler.errors import PhotoError
from handler.handed import Photo
from handler.limits import format_of
from handler.metrics import Metrics
from handler.photo_file import missing_readers
from handler.preprocess import Spec

# a decoder starts in 0.3 s; a machine may be busy
START_S = 60.0
BLOCKED_S = 0.05
START_TRIES = 3  # in a batch, of decoders that end before they have started


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
        self._one_batch = threading.Lock()
        batch = _Batch([], time.monotonic() + START_S)
        while not all(decoder.works for decoder in self.processes):
            if batch.failed_starts or time.monotonic() > batch.deadline:
                raise ValueError(f"a process that decodes photos did not start within {START_S:g} s, or ended at once")
            self._read(batch)

    def decode(
        self, photos: Sequence[Photo], meanwhile: Callable[[], object] | None = None
    ) -> tuple[list[Decoded | PhotoError], float]:
        """(each photo's crop, or why there is none; the CPU seconds that they took).

        `meanwhile` is called once the decoders have what they can take, if there are photos, and must return at once.
        """
        with self._one_batch:
            try:
                return self._decode(photos, meanwhile)
            except BaseException:
                for decoder in self.processes:  # or its answers would be taken for those to the next batch's photos
                    if decoder.jobs:
                        decoder.replace()
                raise

    def _decode(self, photos: Sequence[Photo], meanwhile: Callable[[], object] | None) -> tuple[list[Decoded | PhotoError], float]:
        batch = _Batch([None] * len(photos), time.monotonic() + self.budget.batch_s)
        outcomes = batch.outcomes
        # most photos are cheap and answered here; of the others this gives the cost
        self._answer(batch, [Job(i, photo, self.budget.cheap) for i, photo in enumerate(photos)], meanwhile=meanwhile)
        costs = ((cost, i) for i, cost in enumerate(outcomes) if isinstance(cost, Cost))
        costly = sorted(costs, key=lambda pair: pair[0].cpu_s)
        admitted: list[Job] = []
        planned = batch.cpu_s
        for cost, i in costly:
            most = self.budget.photo(str(format_of(bytes(photos[i]))))
            if not cost.within(most):
                outcomes[i] = _too_costly(cost, most)
            elif admitted and planned + cost.cpu_s > self.budget.batch_cpu_s:
                outcomes[i] = _busy()
            else:
                planned += cost.cpu_s
                admitted.append(Job(i, photos[i], cost))
        self._answer(batch, admitted, are_costly=True)
        return outcomes, batch.cpu_s

    def _answer(
        self, batch: "_Batch", jobs: Sequence[Job], are_costly: bool = False, meanwhile: Callable[[], object] | None = None
    ) -> None:
        """Fill in the outcome of each job: a crop, the cost if that is over the limit, or why there is neither.

        A decoder gets its next photo before it has answered: else it would stand idle while its answer is read. Costly photos
        wait until the memory that they take is free.
        """
        batch.waiting.extend(jobs)
        while batch.waiting or any(decoder.jobs for decoder in self.processes):
            is_late = time.monotonic() > batch.deadline or batch.cpu_s > self.budget.batch_cpu_s
            if is_late or (batch.failed_starts > START_TRIES and not any(decoder.works for decoder in self.processes)):
                batch.refuse_waiting()
            self._give(batch, are_costly)
            if meanwhile is not None:
                meanwhile()
                meanwhile = None
            self._read(batch)

    def _give(self, batch: "_Batch", are_costly: bool) -> None:
        """Give decoders what waits: first those that are free, the last used before others, as its memory is warm."""
        recent = sorted(self.processes, key=lambda decoder: decoder.began, reverse=True)
        for decoder in recent:
            if not batch.waiting or decoder.jobs:
                continue
            decoder.look()
            if decoder.has_ended and batch.failed_starts <= START_TRIES:
                decoder.replace()
                batch.failed_starts += decoder.has_ended
            if decoder.works and (not are_costly or self._has_memory(batch.waiting[0])):
                self._give_first(batch, decoder)
        for decoder in recent:
            # of the last photos each goes to the decoder that is free first
            if not are_costly and len(batch.waiting) >= len(recent) and decoder.may_have_next(batch.waiting[0].photo):
                self._give_first(batch, decoder)

    def _give_first(self, batch: "_Batch", decoder: Decoder) -> None:
        before = time.monotonic()
        if decoder.give(batch.waiting[0], max(0.001, self._deadline(batch, before) - before)):
            batch.waiting.popleft()
        # by a large photo; nobody has looked meanwhile at what the others answered
        if (blocked_s := time.monotonic() - before) > BLOCKED_S:
            for other in self.processes:
                if other is not decoder:
                    other.began += blocked_s

    def _has_memory(self, job: Job) -> bool:
        taken = sum(other.limit.memory for decoder in self.processes for other in decoder.jobs)
        return taken + job.limit.memory <= self.budget.memory

    def _deadline(self, batch: "_Batch", began: float) -> float:
        """When a photo that was begun then is given up: so four hung ones may follow each other before the batch's time is up."""
        return min(batch.deadline, began + self.budget.batch_s / 4)

    def _read(self, batch: "_Batch") -> None:
        """Wait for a decoder that answers, starts or ends, or whose time is up; and take what they answer."""
        starting = batch.waiting or not batch.outcomes  # those are wanted, or awaited at the start of all
        asked = [one for one in self.processes if one.jobs or (starting and not one.has_started and not one.has_ended)]
        if not asked:
            return
        poll = select.poll()
        for decoder in asked:
            poll.register(decoder, select.POLLIN)
        deadline = min(self._deadline(batch, one.began) if one.jobs else batch.deadline for one in asked)
        poll.poll(math.ceil(max(0.0, deadline - time.monotonic()) * 1000))
        for decoder in asked:
            started = decoder.has_started
            try:
                replied = decoder.read()
            except EOFError:
                self._lose(batch, decoder)
                continue
            if replied is None:
                if decoder.jobs and time.monotonic() >= self._deadline(batch, decoder.began):
                    self._lose(batch, decoder)
            elif started:
                self._take(batch, decoder, *replied)

    def _lose(self, batch: "_Batch", decoder: Decoder) -> None:
        """A decoder has ended, or taken too long: by the first of its photos, if it has any. No other was begun."""
        if not decoder.jobs:
            decoder.has_ended = True
            batch.failed_starts += 1
            return
        job = decoder.jobs.popleft()
        _replace(batch, decoder)
        batch.cpu_s += job.limit.cpu_s
        self._metrics.decoder_died()
        batch.outcomes[job.place] = PhotoError(
            "the photo cannot be decoded: its decoder ended or took too long; save it anew, or send another"
        )

    def _take(self, batch: "_Batch", decoder: Decoder, answer: dict[str, Any], pixels: memoryview) -> None:
        """A decoder's answer to its first photo."""
        job, began = decoder.jobs.popleft(), decoder.began
        decoder.began = time.monotonic()
        if answer["last"]:
            _replace(batch, decoder)
        batch.cpu_s += min(answer["cpu_s"], SPARE_CPU * job.limit.cpu_s)  # beyond that the system ends it
        if "cost" in answer:
            batch.outcomes[job.place] = Cost(*answer["cost"])
            return
        seconds = time.monotonic() - began
        self._metrics.decoded(seconds)
        if "size" in answer:
            width, height = answer["size"]
            crop = np.frombuffer(pixels, np.uint8).reshape(self._shape)
            batch.outcomes[job.place] = Decoded(crop, (width, height), began, seconds)
            return
        if answer["out_of_memory"]:
            self._metrics.decoder_died()
        batch.outcomes[job.place] = PhotoError(answer["message"], answer["status"])


@dataclass
class _Batch:
    """The photos' outcomes by their places, None until there is one, and what they have taken until now."""

    outcomes: list[Any]
    deadline: float
    cpu_s: float = 0.0
    failed_starts: int = 0
    waiting: deque[Job] = field(default_factory=deque)

    def refuse_waiting(self) -> None:
        while self.waiting:
            self.outcomes[self.waiting.popleft().place] = _busy()


def _replace(batch: _Batch, decoder: Decoder) -> None:
    """Another process in its place; its photos wait again."""
    batch.waiting.extendleft(reversed(decoder.jobs))
    decoder.replace()


def _too_costly(cost: Cost, most: Cost) -> PhotoError:
    if cost.memory > most.memory:
        found, limit = f"{cost.memory / MEGABYTE:,.0f} MB of memory", f"{most.memory / MEGABYTE:,.0f} MB"
    else:
        found, limit = f"{cost.cpu_s:.2f} s of CPU", f"{most.cpu_s:.2f} s"
    return PhotoError(f"the photo takes {found} to decode, the limit is {limit}: send it smaller, or as a baseline JPEG", 413)


def _busy() -> PhotoError:
    return PhotoError("too many costly photos at a time: send this one again in a few seconds, or smaller", 503)
