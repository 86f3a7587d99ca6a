"""What is watched of each answer, for drift: signals of the photo, of the answer and of the features; and the reference profile.

Export measures held-out photos with the functions that the worker uses, and writes the reference as profile.npz; the
statistics over many answers are scripts/drift's. Signals of a photo are taken from some of the crop's pixels: all of them would
cost the worker more than they tell.
"""

import io
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from handler.program import Answers

PROFILE = "profile.npz"
OF_ANSWER = ("top1", "confidence", "entropy")
OF_PHOTO = ("brightness", "contrast", "saturation", "redness", "sharpness", "flatness", "megapixels", "aspect")
# Hotelling's T2 within the principal components, the squared residual outside of them (Jackson and Mudholkar, 1979)
OF_FEATURES = ("t2", "residual")
SIGNALS = (*OF_ANSWER, *OF_PHOTO, *OF_FEATURES)
COLUMNS = ("class", *SIGNALS)
EVERY = 16  # th row and column
FLAT = 1  # of 255: steps of JPEG's coarse quantisation leave areas without any


def photo_signals(crops: Sequence[np.ndarray], sizes: Sequence[tuple[int, int]]) -> np.ndarray:
    """OF_PHOTO, float32 (B, 8), of crops uint8 (H, W, 3) and the upright photos' (width, height), in the scale of decoding.

    brightness, contrast, saturation and redness (red less blue) are in 0..1 or -1..1; sharpness is the logarithm of the mean
    second difference, which blur and enlarged thumbnails lower; flatness the share of pixels without one: a coarse JPEG has more.
    """
    few = np.stack([crop[::EVERY, ::EVERY].reshape(-1, 3).T for crop in crops], axis=1) / np.float32(255)
    red, green, blue = few  # (B, pixels) each: reductions over a last axis of three cost twice as much
    grey = (red + green + blue) / 3
    spread = np.maximum(np.maximum(red, green), blue) - np.minimum(np.minimum(red, green), blue)
    lines = np.stack([np.concatenate((crop[::EVERY, :, 1].ravel(), crop[:, ::EVERY, 1].T.ravel())) for crop in crops]).astype(
        np.int16
    )
    step = lines[:, 1:] - lines[:, :-1]
    bend = np.abs(step[:, 1:] - step[:, :-1])  # (B, pixels)
    width, height = np.array(sizes, np.float32).T
    columns = (
        grey.mean(axis=1),
        grey.std(axis=1),
        spread.mean(axis=1),
        red.mean(axis=1) - blue.mean(axis=1),
        np.log(bend.sum(axis=1, dtype=np.int32) / bend.shape[1] + 0.01),
        # a row at a time: along an axis it takes four times as long
        np.array([np.count_nonzero(row) for row in bend <= FLAT]) / bend.shape[1],
        width * height / 1e6,
        width / height,
    )
    return np.stack(columns, axis=1, dtype=np.float32, casting="same_kind")


@dataclass(frozen=True)
class Profile:
    """The reference: COLUMNS of held-out photos (N, len(COLUMNS)), and the principal components of other photos' features.

    `mean` (D,), `basis` (D, K) with columns of length 1, `variances` (K,) of the features along them. `threshold` is the
    confidence below which an answer is unsure. Rows and threshold are of one of an archive's programs.
    """

    rows: np.ndarray
    mean: np.ndarray
    basis: np.ndarray
    variances: np.ndarray
    threshold: float

    @classmethod
    def load(cls, path: Path, program: str | None = None) -> "Profile | None":
        """From the file, as measured with the program of this name, by default the first; None if there is no file.

        ValueError if it is damaged, of other signals, or was not measured with this program.
        """
        if not path.is_file():
            return None
        try:
            with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as found:
                if tuple(found["columns"].tolist()) != COLUMNS:
                    raise ValueError(f"has the signals {found['columns'].tolist()}, expected {list(COLUMNS)}")
                programs = found["precisions"].tolist()
                if program not in (None, *programs):
                    raise ValueError(f"is of the programs {programs}, expected {program}")
                k = programs.index(program) if program else 0
                mean, basis, variances = (found[name].astype(np.float32) for name in ("mean", "basis", "variances"))
                return cls(found["rows"][k].astype(np.float32), mean, basis, variances, float(found["thresholds"][k]))
        except (OSError, EOFError, KeyError, IndexError, ValueError, zipfile.BadZipFile, zlib.error) as error:
            raise ValueError(f"{path.name} cannot be read: {error}: export again (make export)") from error

    def save(self, path: Path | IO[bytes]) -> None:
        """As a file of this one alone; see save_profiles."""
        save_profiles(path, {"": self})

    @property
    def unsure(self) -> float:
        """The share of the reference's answers that are unsure."""
        return float((self.rows[:, COLUMNS.index("confidence")] < self.threshold).mean())

    def measure(self, crops: Sequence[np.ndarray], sizes: Sequence[tuple[int, int]], answers: Answers) -> np.ndarray:
        """COLUMNS of B answers: float32 (B, len(COLUMNS))."""
        probabilities = answers.probabilities
        rows = np.empty((len(crops), len(COLUMNS)), np.float32)
        rows[:, 0] = probabilities.argmax(axis=1)
        rows[:, 1] = probabilities.max(axis=1)
        rows[:, 2] = answers.confidence
        rows[:, 3] = -(probabilities * np.log(np.maximum(probabilities, 1e-12))).sum(axis=1)
        rows[:, 4:-2] = photo_signals(crops, sizes)
        off = answers.features - self.mean  # (B, D)
        along = off @ self.basis  # (B, K)
        rows[:, -2] = (along**2 / self.variances).sum(axis=1)
        rows[:, -1] = (off**2).sum(axis=1) - (along**2).sum(axis=1)
        return rows


def save_profiles(path: Path | IO[bytes], profiles: Mapping[str, Profile]) -> None:
    """The profiles of one network by the names of its programs, as a file.

    They share the components, which are written as float16: it moves no signal by more than 1 %. Rows and thresholds differ, as
    answers in int8 are not those in float32.
    """
    first = next(iter(profiles.values()))
    np.savez_compressed(
        path,
        columns=np.array(COLUMNS),
        precisions=np.array(list(profiles)),  # which named them in earlier versions
        rows=np.stack([profile.rows for profile in profiles.values()]),
        thresholds=np.array([profile.threshold for profile in profiles.values()], np.float64),
        mean=first.mean.astype(np.float16),
        basis=first.basis.astype(np.float16),
        variances=first.variances,
    )


def components(features: np.ndarray, count: int = 16) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(mean (D,), basis (D, K), variances (K,)) of features (N, D), K = min(count, N - 1, D)."""
    mean = features.mean(axis=0)
    _, lengths, directions = np.linalg.svd(features - mean, full_matrices=False)
    count = max(1, min(count, len(features) - 1, features.shape[1]))
    variances = lengths[:count] ** 2 / max(1, len(features) - 1)
    return mean, directions[:count].T.copy(), np.maximum(variances, 1e-9)
