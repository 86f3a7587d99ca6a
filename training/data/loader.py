"""Loaders: augmented crops to train on, and crops exactly as the worker makes them to evaluate on.

Evaluation crops come from handler/preprocess.py; augmentation is defined here. The content of a training batch is a
function of seed, epoch, step and photo alone: not of the number of processes, of loader workers, or of what ran before.
"""

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, Sampler
from torchvision import transforms

from handler.preprocess import PhotoError, Spec, preprocess, read_photo
from handler.text import ReadsText, text_ids
from scripts.phrases import counted
from training.data.balance import draw
from training.data.kept import Kept, free_memory, keep
from training.data.sets import Data
from training.data.split import UNREADABLE, Photo
from training.data.workers import Loader
from training.params import Params
from training.text.dropout import shown

# so many unreadable photos in a row are not a few bad files: the folder is gone
MAX_UNREADABLE_RUN = 20


class TrainPhotos(Dataset[Any]):
    """Augmented training crops by (epoch, position): uint8 (S, S, 3), S = params.train_size, class index, position or -1.

    A position beyond the last photo begins with the first again, with other augmentation: see balance.draw.
    A photo that cannot be read is replaced by the next one, and its position is the third value, else -1. With `text`, two more:
    the text's ids int64 (L,), and float32 1, or 0 where the photo is left out.
    """

    def __init__(self, photos: Sequence[Photo], params: Params, text: ReadsText | None = None, kept: Kept | None = None) -> None:
        self.short_side, self.kept = needed_side(params), kept
        self.photos, self.seed, self.text, self.side_dropout = photos, params.seed, text, params.side_dropout
        bicubic = transforms.InterpolationMode.BICUBIC
        policy: dict[str, list[Callable[[Image.Image], Image.Image]]] = {
            "none": [],
            "trivial": [transforms.TrivialAugmentWide()],
            "rand": [transforms.RandAugment()],
        }
        size, scale = params.train_size, (params.crop_scale_min, 1.0)
        # not timm's transforms: they draw from the global states of random and NumPy, so that a crop depends on all that was
        # drawn before it in the same worker. torchvision's draw from torch's default generator alone, which can be seeded
        self.augment = transforms.Compose(
            [
                transforms.RandomResizedCrop(size, scale, interpolation=bicubic),
                transforms.RandomHorizontalFlip(),
                *policy[params.augment],
            ]
        )

    def __getitem__(self, key: tuple[int, int]) -> tuple[Any, ...]:
        epoch, position = key
        image, index = self._readable(position)
        # a seed for each photo and epoch: a resumed run, or one with other workers, sees the same crops
        seed = hashlib.sha256(f"{self.seed} {epoch} {position}".encode()).digest()
        # forked: without loader workers this is the generator from which the training loop draws its dropout
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(int.from_bytes(seed[:7]))
            crop = np.array(self.augment(image))
        photo, number = self.photos[index], position % len(self.photos)
        sides = () if self.text is None else shown(photo.text, self.text, self.side_dropout, self.seed, epoch, position)
        return crop, photo.index, -1 if index == number else number, *sides

    def _readable(self, position: int) -> tuple[Image.Image, int]:
        # the next one by position, not a random one: the replacement, too, is the same in every run
        for index in (i % len(self.photos) for i in range(position, position + MAX_UNREADABLE_RUN)):
            try:
                return self._read(index), index
            except (PhotoError, OSError) as error:
                reason = error
        raise ValueError(f"{MAX_UNREADABLE_RUN} photos in a row are unreadable, {self.photos[index].path} is the last: {reason}")

    def _read(self, index: int) -> Image.Image:
        if self.kept is not None and (pixels := self.kept.get(index)) is not None:
            return Image.fromarray(pixels)
        image = read_photo(self.photos[index].path.read_bytes(), self.short_side)
        if self.kept is not None:
            self.kept.put(index, np.asarray(image))
        return image


class EvalPhotos(Dataset[Any]):
    """Evaluation crops exactly as the worker makes them: uint8 (H, W, 3), class index, position in `photos`.

    Ids int64 (L,), too, where the spec reads texts. The class index of a photo that cannot be read is UNREADABLE, and its crop is
    black.
    """

    def __init__(self, photos: Sequence[Photo], spec: Spec, rank: int = 0, world_size: int = 1, kept: Kept | None = None) -> None:
        self.photos, self.spec, self.kept = photos, spec, kept
        # no padding: every photo belongs to exactly one rank
        self.positions = range(rank, len(photos), world_size)

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, i: int) -> tuple[Any, ...]:
        position = self.positions[i]
        photo = self.photos[position]
        ids = () if self.spec.text is None else (np.array(text_ids(photo.text, self.spec.text), np.int64),)
        try:
            return self._crop(position), photo.index, position, *ids
        except (PhotoError, OSError):
            _, height, width = self.spec.input_size
            return np.zeros((height, width, 3), np.uint8), UNREADABLE, position, *ids

    def _crop(self, position: int) -> np.ndarray:
        if self.kept is not None and (crop := self.kept.get(position)) is not None:
            return crop.copy()
        crop = preprocess(self.photos[position].path.read_bytes(), self.spec)
        if self.kept is not None:
            self.kept.put(position, crop)
        return crop


def needed_side(params: Params) -> int:
    """Pixels of a photo's short side below which training's smallest crop would be enlarged; bigger photos are read reduced."""
    narrowest = 3 / 4  # RandomResizedCrop's: a crop's sides are the square root of its area, times and by that of this
    return math.ceil(params.train_size / math.sqrt(params.crop_scale_min * narrowest))


def keep_decoded(data: Data, params: Params, spec: Spec) -> tuple[Kept | None, Kept | None]:
    """Where params.cache keeps decoded training photos, and crops of held-out ones. None: each epoch decodes them again."""
    crops = hashlib.sha256(json.dumps(spec.to_dict(), sort_keys=True).encode()).hexdigest()[:16]
    free, of_crops = free_memory(), len(data.held_out) * math.prod(spec.input_size)
    return (
        keep(params.cache, data.train, f"short-side-{needed_side(params)}", max(0, free - of_crops)),
        keep(params.cache, data.held_out, f"crops-{crops}", min(free, of_crops)),
    )


class Batches(Sampler[list[tuple[int, int]]]):
    """This rank's batches of (epoch, position), from `first_step` to the end of the last epoch; `accumulate` of them a step.

    Each epoch has an order of its own, cut into global batches, and those into one run of photos a part and rank: the
    photos of a step do not depend on the number of ranks. Photos that do not fill a last global batch are left out of that
    epoch; the next one's order leaves out others. With `expected` (N,) photos are drawn so often, see balance.draw.
    """

    # not torch's DistributedSampler: it deals photos out in turn, so that which photos are neighbours, and mixed, depends on
    # the number of ranks; and it cannot start in the middle of an epoch, as a resumed run must
    def __init__(
        self, num_photos: int, params: Params, rank: int, world_size: int, first_step: int = 0, expected: Tensor | None = None
    ) -> None:
        parts = params.accumulate * world_size
        self.size = params.global_batch_size // parts
        even = 2 if params.mixup or params.cutmix else 1  # photos are mixed in pairs
        if params.global_batch_size % (parts * even):
            raise ValueError(
                f"global_batch_size is {params.global_batch_size}, expected a multiple of {parts * even}: "
                f"{counted(world_size, 'process')} x {counted(params.accumulate, 'part')}"
                + (" x pairs to mix" if even == 2 else "")
            )
        self.num_photos, self.params, self.first_step, self.expected = num_photos, params, first_step, expected
        self.rank, self.world_size = rank, world_size
        self.steps_per_epoch = max(1, num_photos // params.global_batch_size)
        # the loader is ahead of the loop: at the end of an epoch both orders are asked for in turn
        self._order = lru_cache(maxsize=2)(self._new_order)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for step in range(self.first_step, self.params.epochs * self.steps_per_epoch):
            positions = self.positions(step).split(self.size)
            for part in range(self.params.accumulate):
                yield [(step // self.steps_per_epoch, i) for i in positions[part * self.world_size + self.rank].tolist()]

    def positions(self, step: int) -> Tensor:
        """The positions of a step's photos over all parts and ranks, int64 (global_batch_size,)."""
        epoch, step_in_epoch = divmod(step, self.steps_per_epoch)
        size = self.params.global_batch_size
        # modulo: a data set smaller than a global batch fills it by repeating photos
        return self._order(epoch)[torch.arange(step_in_epoch * size, (step_in_epoch + 1) * size) % self.num_photos]

    def _new_order(self, epoch: int) -> Tensor:
        generator = torch.Generator().manual_seed(self.params.seed * 100_003 + epoch)
        if self.expected is not None:
            return draw(self.expected, generator)
        return torch.randperm(self.num_photos, generator=generator)

    def weights(self, step: int, part: int, of_photos: Tensor) -> Tensor:
        """The weights of this rank's photos in a part of a step, float32 (B,), by those `of_photos` (N,).

        Over the whole step their mean is 1: the mean of weighted losses over all parts and ranks is the weighted mean.
        A photo in the place of one that cannot be read has the weight of that one.
        """
        weights: Tensor = of_photos[self.positions(step) % self.num_photos]
        shares: tuple[Tensor, ...] = (weights / weights.mean()).float().split(self.size)
        return shares[part * self.world_size + self.rank]


def train_loader(
    photos: Sequence[Photo], params: Params, batches: Batches, text: ReadsText | None = None, kept: Kept | None = None
) -> Loader:
    """Batches (uint8 (B, S, S, 3), class int64 (B,), position of an unreadable photo or -1, int64 (B,)).

    With `text` each also has ids int64 (B, L) and whether photos count, float32 (B,).
    """
    ahead = 4 if params.workers else None
    return Loader(TrainPhotos(photos, params, text, kept), params.workers, batch_sampler=batches, prefetch_factor=ahead)


def eval_loader(
    photos: Sequence[Photo], params: Params, spec: Spec, rank: int = 0, world_size: int = 1, kept: Kept | None = None
) -> Loader:
    """Batches (uint8 (B, H, W, 3), int64 (B,), positions int64 (B,)), every photo once over all ranks.

    Ids int64 (B, L), too, where the spec reads texts.
    """
    size = max(1, params.global_batch_size // (params.accumulate * world_size))
    return Loader(EvalPhotos(photos, spec, rank, world_size, kept), params.workers, batch_size=size)
