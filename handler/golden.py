"""An archive's golden photos: pictures with each program's answers, by which it proves itself wherever it runs."""

import base64
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from handler.errors import PhotoError
from handler.expected import expected_answers, name_in_float
from handler.preprocess import Spec, blank, coarse, ids_of
from handler.program import Program, inputs


class GoldenPhotos:
    """golden.json, its photos decoded once for all of the archive's programs."""

    def __init__(
        self,
        content: Mapping[str, Any],
        spec: Spec,
        num_classes: int,
        preprocess: Callable[[Sequence[bytes]], Sequence[np.ndarray | PhotoError]],
    ) -> None:
        """ValueError if golden.json is damaged, a photo's crop differs from training's, or the answers are of other classes."""
        photos = content["photos"]
        self._names, self._expected = [photo["name"] for photo in photos], expected_answers(content)
        crops = []
        for photo in photos:
            (crop,) = preprocess([base64.b64decode(photo["image"])]) if photo["image"] else [blank(spec)]  # text alone
            if isinstance(crop, PhotoError):
                raise ValueError(f"golden photo {photo['name']!r}: {crop}")
            crops.append(crop)
            off_crop = np.abs(coarse(crop).astype(int) - np.array(photo["coarse_crop"])).max()
            if off_crop > content["crop_tolerance"]:
                raise ValueError(f"golden photo {photo['name']!r}: the crop is off by {off_crop} of 255 from the training side's")
        for one in self._expected.values():
            if len(one.probabilities[0]) != num_classes:
                raise ValueError(f"label map has {num_classes} names, golden answers have {len(one.probabilities[0])} classes")
        self._given = inputs(np.stack(crops), ids_of([photo.get("text", "") for photo in photos], spec))

    @property
    def count(self) -> int:
        """The number of photos."""
        return len(self._names)

    def batch(self, size: int) -> tuple[np.ndarray, ...]:
        """What a program takes: `size` of the photos, in turn."""
        chosen = np.arange(size) % self.count
        return tuple(one[chosen] for one in self._given)

    def check(self, program: Program, name: str, batch_sizes: Sequence[int]) -> None:
        """ValueError unless the program of this name answers all photos as where it was exported, in batches of each size."""
        known = name_in_float(name) if program.in_float and name_in_float(name) in self._expected else name
        if known not in self._expected:
            raise ValueError(f"golden.json has no answers of the program {name}")
        expected, count = self._expected[known], self.count
        answers, scores = np.array(expected.probabilities), np.array(expected.confidence)  # (B, num_classes), (B,)
        # as many batches of a size as have all photos
        for size, first in ((each, first) for each in batch_sizes for first in range(0, count, each)):
            chosen = np.arange(first, first + size) % count
            probabilities, confidence, _ = program(*(one[chosen] for one in self._given))
            if probabilities.shape[1] != answers.shape[1]:
                raise ValueError(f"label map has {answers.shape[1]} names, model has {probabilities.shape[1]} outputs")
            off = np.maximum(np.abs(probabilities - answers[chosen]).max(axis=1), np.abs(confidence - scores[chosen]))
            for i, difference in zip(chosen, off, strict=True):
                if not difference <= expected.tolerance:
                    raise ValueError(
                        f"golden photo {self._names[i]!r}: the answer in {name} differs by "
                        f"{difference:.2g} from that where it was exported, at most {expected.tolerance:.2g} is allowed"
                    )
