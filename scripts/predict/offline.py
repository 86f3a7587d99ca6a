"""The answers of an archive's own handler in this process, the same as a server's.

Three things go on at a time: photos are read, the next batch is decoded, one is inferred. The handler's steps are those that its
handle() goes through; the bench's in-process ceiling is made of the same.
"""

import itertools
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from handler.text import TextError, check_text
from scripts.archive.read import load_handler, read_manifest
from scripts.predict.in_order import in_order
from scripts.predict.photo import Photo, UnreadError

READERS = 8  # threads; a disk in a network, or S3, takes its time for each photo
READ_AHEAD = 2  # batches
DECODE_AHEAD = 2  # batches: one is inferred, one is decoded
BUSY = 503  # of a photo that was too costly beside the others of its batch

Row = dict[str, Any]


class Read(NamedTuple):
    """A photo with its bytes, or why there are none."""

    photo: Photo
    stamp: str
    content: bytes | UnreadError


class Decoded(NamedTuple):
    """A photo's row as far as it goes, its crop, uint8 (H, W, 3), None for an error of the photo, and its text."""

    row: Row
    crop: Any
    text: str = ""


def read(photo: Photo) -> Read:
    """The photo's bytes. PredictError where it is not the photo's fault."""
    stamp = photo.stamp()  # first: what changes while it is read has another one afterwards
    try:
        return Read(photo, stamp, photo.read())
    except UnreadError as error:
        return Read(photo, stamp, error)


def error_answer(error: Exception, status: int, kind: str) -> Row:
    """An error as a server answers it."""
    return {"code": status, "type": kind, "message": str(error)}


def as_before(inferred: Any, answers: Sequence[Any]) -> Any:
    """Other answers in the type of these: archives before features have a plain tuple."""
    return type(inferred)(*answers) if hasattr(inferred, "_fields") else tuple(answers)


class Offline:
    """An unpacked archive's handler. One a process."""

    def __init__(self, unpacked: Path, mirrored: bool = False) -> None:
        """Load it; with `mirrored`, each photo's mirror image counts, too. ValueError if it does not answer its golden photos."""
        self.mirrored = mirrored
        config = unpacked / read_manifest(unpacked)["model"]["configFile"]
        self.batch_size = yaml.safe_load(config.read_text(encoding="utf-8"))["batchSize"]
        self.handler = load_handler(unpacked)
        self.top_k = min(self.handler.top_k, len(self.handler.labels))
        # an archive that is older than texts has a spec without any
        self.reads_text = getattr(self.handler.spec, "text", None) is not None

    def answers(self, photos: Iterator[Photo]) -> Iterator[Row]:
        """{"photo", "stamp", ...the answer} for each photo, in order. PredictError."""
        readers, decoder = ThreadPoolExecutor(READERS, "read"), ThreadPoolExecutor(1, "decode")
        try:
            contents = in_order(readers, read, photos, READ_AHEAD * self.batch_size)
            for batch in in_order(decoder, self._decode, self._batches(contents), DECODE_AHEAD):
                yield from self._infer(batch)
        finally:
            readers.shutdown(cancel_futures=True)
            decoder.shutdown(cancel_futures=True)

    def _batches(self, contents: Iterator[Read]) -> Iterator[list[Read]]:
        while batch := list(itertools.islice(contents, self.batch_size)):
            yield batch

    def _decode(self, batch: Sequence[Read]) -> list[Decoded]:
        contents = [one.content for one in batch if not isinstance(one.content, UnreadError)]
        crops = iter(self.handler.preprocess(contents) if contents else [])
        return [self._decoded(one, crops) for one in batch]

    def _decoded(self, one: Read, crops: Iterator[Any]) -> Decoded:
        row, crop = {"photo": one.photo.name, "stamp": one.stamp}, one.content
        if isinstance(crop, UnreadError):
            return Decoded(row | error_answer(crop, crop.status, crop.kind), None)
        crop = next(crops)
        if getattr(crop, "status", None) == BUSY:
            (crop,) = self.handler.preprocess([one.content])  # alone it has the whole budget
        if isinstance(crop, Exception):  # the archive's own PhotoError, which is none of our classes
            return Decoded(row | error_answer(crop, getattr(crop, "status", 422), type(crop).__name__), None)
        try:
            return Decoded(row, crop, check_text(one.photo.text) if self.reads_text else "")
        except TextError as error:
            return Decoded(row | error_answer(error, error.status, "RequestError"), None)

    def _infer(self, batch: Sequence[Decoded]) -> Iterator[Row]:
        crops = [one.crop for one in batch if one.crop is not None]
        texts = [[one.text for one in batch if one.crop is not None]] if self.reads_text else []
        answers = iter(self.handler.postprocess(self._answers(crops, texts), [self.top_k] * len(crops)) if crops else [])
        for one in batch:
            yield one.row if one.crop is None else one.row | next(answers)

    def _answers(self, crops: Sequence[Any], texts: Sequence[Sequence[str]]) -> Any:
        """The program's answers to crops (H, W, 3) and their texts."""
        inferred = self._inferred(crops, texts)
        if not self.mirrored:
            return inferred
        other = self._inferred([np.ascontiguousarray(crop[:, ::-1]) for crop in crops], texts)
        # what the mean of the logits gives, as evaluation has it; other outputs, of which archives have one or two, are averaged
        logs = (np.log(np.maximum(one[0], np.finfo(np.float32).tiny)) for one in (inferred, other))
        mean = sum(logs) / 2
        product = np.exp(mean - mean.max(1, keepdims=True))
        means = [(one + two) / 2 for one, two in zip(inferred[1:], other[1:], strict=True)]
        answers = (product / product.sum(1, keepdims=True), *means)
        return as_before(inferred, answers)

    def _inferred(self, crops: Sequence[Any], texts: Sequence[Sequence[str]]) -> Any:
        """The same, always in batches of batchSize: handlers of earlier archives round int8 otherwise in smaller ones."""
        missing = self.batch_size - len(crops)
        filled = [[*given, *given[-1:] * missing] for given in (list(crops), *map(list, texts))]
        inferred = self.handler.inference(*filled)
        return as_before(inferred, [output[: len(crops)] for output in inferred])
