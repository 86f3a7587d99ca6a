"""What a student learns from: checkpoints of ours, whose answers to the same crops stand beside the true classes.

Hinton et al. (arXiv:1503.02531), with the crops, and mixes of crops, that the student sees (arXiv:2106.05237).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from handler.text import ReadsText
from scripts.phrases import counted
from training.data.split import Photo
from training.folder import process_at_work
from training.model import Checkpoint
from training.params import Params
from training.tracking.store import sha256_of


@dataclass(frozen=True)
class Trained:
    """A checkpoint that teaches: its file, the file's sha256, its content."""

    path: Path
    sha256: str
    checkpoint: Checkpoint

    @classmethod
    def read(cls, path: Path) -> "Trained":
        """ValueError if the file is missing, no checkpoint of ours, or another one tomorrow: of the latest run, or one at work."""
        if path.parent.is_symlink():
            raise ValueError(f"teacher is {str(path)!r}, which leads to another run tomorrow: expected a run's own folder")
        try:
            before, checkpoint, after = _sha256(path), Checkpoint.load(path), _sha256(path)
        except ValueError as error:
            raise ValueError(f"teacher {path}: {error}") from error
        if before != after or process_at_work(path.parent):
            raise ValueError(f"teacher {path}: its run is at work, and writes it again: expected one that has ended")
        return cls(path, after, checkpoint)

    def order(self, labels: Sequence[str]) -> list[int]:
        """Where each of `labels` stands in its own. ValueError, naming one that differs, unless they are the same classes."""
        theirs = self.checkpoint.labels
        if missing := sorted(set(labels) - set(theirs)):
            raise ValueError(
                f"teacher {self.path} does not know the class {missing[0]!r}: expected a checkpoint of the same classes"
            )
        if unknown := sorted(set(theirs) - set(labels)):
            raise ValueError(f"teacher {self.path} knows the class {unknown[0]!r}, too: expected a checkpoint of the same classes")
        return [theirs.index(label) for label in labels]


def _sha256(path: Path) -> str:
    """ "" of a file that is not there: loading it says why."""
    try:
        return sha256_of(path)
    except OSError:
        return ""


def read_trained(params: Params) -> list[Trained]:
    """The checkpoints that the parameters name as teacher; [] without one. ValueError as Trained.read."""
    paths = [params.teacher] if isinstance(params.teacher, str) else params.teacher or []
    return [Trained.read(Path(path)) for path in paths]


class Teacher(nn.Module):
    """One network or several, of which the mean counts; never trained."""

    def __init__(self, trained: Sequence[Trained], temperature: float, labels: Sequence[str]) -> None:
        """`labels` are the student's classes. ValueError as Trained.order."""
        super().__init__()
        self.trained, self.temperature = trained, temperature
        self.orders = [one.order(labels) for one in trained]
        self.trained_on = set[str]().union(*(one.checkpoint.trained_on for one in trained))  # sha256 of photos
        self.networks = nn.ModuleList(one.checkpoint.classifier()[0].requires_grad_(False) for one in trained)

    @torch.no_grad()
    def forward(self, crops: Tensor, *sides: Tensor) -> Tensor:
        """Crops (B, H, W, 3) in 0..255, with ids of texts and what counts if there are any -> probabilities float32 (B, C).

        At `temperature`. Each network sees the crops at the size that it was trained on.
        """
        parts = []
        for one, network, order in zip(self.trained, self.networks, self.orders, strict=True):
            logits = network(resized(crops, int(one.checkpoint.params["train_size"])), *sides)[:, order].float()
            # by its own calibration first: of several, the surest must not be the loudest
            parts.append((logits / (one.checkpoint.temperature * self.temperature)).softmax(1))
        return torch.stack(parts).mean(0)

    def check_texts(self, text: ReadsText | None) -> None:
        """ValueError unless those that read texts read them as the student does: they are given its ids."""
        for one in self.trained:
            theirs = one.checkpoint.read_spec().text
            if one.checkpoint.tower is not None and text is not None and theirs != text:
                raise ValueError(f"teacher {one.path} reads texts as {theirs}, the student as {text}: expected the same")

    def check_held_out(self, held_out: Sequence[Photo]) -> None:
        """ValueError if it was trained on held-out photos: what it knows of them would reach the student."""
        known = [photo for photo in held_out if photo.sha256 in self.trained_on]
        if known:
            raise ValueError(
                f"the teacher was trained on {len(known)} of {counted(len(held_out), 'held-out photo')}, such as {known[0].path}: "
                "their figures would be too good. Train both on one split: the same data, seed, val_fraction, near_duplicates"
            )

    def loss(self, logits: Tensor, wanted: Tensor) -> Tensor:
        """Cross entropy (B,) of a student's logits (B, C) with probabilities (B, C) of `forward`, at the temperature.

        Times its square, which keeps the gradients' size.
        """
        ours = (logits.float() / self.temperature).log_softmax(1)
        return -(wanted * ours).sum(1) * self.temperature**2


def resized(crops: Tensor, size: int) -> Tensor:
    """Crops (B, H, W, 3) as (B, size, size, 3); unchanged if they have that size."""
    if crops.shape[1] == size:
        return crops
    channels_first = crops.permute(0, 3, 1, 2).float()
    scaled = nn.functional.interpolate(channels_first, (size, size), mode="bilinear", antialias=True, align_corners=False)
    return scaled.permute(0, 2, 3, 1)
