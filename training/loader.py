"""Loaders: augmented crops to train on, and crops exactly as the worker makes them to evaluate on.

Evaluation crops come from handler/preprocess.py; only augmentation is defined here.
"""

import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, DistributedSampler
from torchvision import transforms

from handler.preprocess import Spec, preprocess, read_photo
from training.data import Data
from training.params import Params
from training.split import Photo


class TrainPhotos(Dataset[Any]):
    """Augmented training crops: uint8 (S, S, 3), S = params.train_size, with their class index."""

    def __init__(self, photos: Sequence[Photo], params: Params) -> None:
        self.photos = photos
        bicubic = transforms.InterpolationMode.BICUBIC
        policy: dict[str, list[Callable[[Image.Image], Image.Image]]] = {
            "none": [],
            "trivial": [transforms.TrivialAugmentWide()],
            "rand": [transforms.RandAugment()],
        }
        size, scale = params.train_size, (params.crop_scale_min, 1.0)
        self.augment = transforms.Compose(
            [
                transforms.RandomResizedCrop(size, scale, interpolation=bicubic),
                transforms.RandomHorizontalFlip(),
                *policy[params.augment],
            ]
        )

    def __len__(self) -> int:
        return len(self.photos)

    def __getitem__(self, i: int) -> tuple[np.ndarray, int]:
        photo = self.photos[i]
        return np.array(self.augment(read_photo(photo.path.read_bytes()))), photo.index


class EvalPhotos(Dataset[Any]):
    """Evaluation crops exactly as the worker makes them: uint8 (H, W, 3), class index, position in `photos`."""

    def __init__(self, photos: Sequence[Photo], spec: Spec, rank: int = 0, world_size: int = 1) -> None:
        self.photos, self.spec = photos, spec
        # no padding: every photo belongs to exactly one rank
        self.positions = range(rank, len(photos), world_size)

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, i: int) -> tuple[np.ndarray, int, int]:
        position = self.positions[i]
        photo = self.photos[position]
        return preprocess(photo.path.read_bytes(), self.spec), photo.index, position


def _seed_worker(worker: int) -> None:
    seed = torch.initial_seed() % 2**32
    random.seed(seed)
    np.random.seed(seed)
    torch.set_num_threads(1)


def train_loader(data: Data, params: Params, rank: int, world_size: int) -> DataLoader[Any]:
    """Batches (uint8 (B, S, S, 3), int64 (B,)); call `sampler.set_epoch` before each epoch."""
    photos = TrainPhotos(data.train, params)
    sampler: DistributedSampler[Any] = DistributedSampler(photos, world_size, rank, shuffle=True, seed=params.seed, drop_last=False)
    generator = torch.Generator().manual_seed(params.seed * world_size + rank)
    return DataLoader(
        photos,
        params.batch_size,
        sampler=sampler,
        num_workers=params.workers,
        drop_last=len(photos) >= params.batch_size * world_size,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=params.workers > 0,
        worker_init_fn=_seed_worker,
        generator=generator,
    )


def eval_loader(photos: Sequence[Photo], params: Params, spec: Spec, rank: int = 0, world_size: int = 1) -> DataLoader[Any]:
    """Batches (uint8 (B, H, W, 3), int64 (B,), positions int64 (B,)), every photo once over all ranks."""
    shard = EvalPhotos(photos, spec, rank, world_size)
    return DataLoader(shard, params.batch_size, num_workers=params.workers, worker_init_fn=_seed_worker)
