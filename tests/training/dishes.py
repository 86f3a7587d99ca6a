"""Features of the real photos of ten dishes, by a network that was trained on none of them; made once for all tests."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tests.conftest import ROOT, SHARED
from training.check.features import features_of
from training.data.split import Photo
from training.params import Params, read_params


def dishes(once) -> tuple[list[Photo], Tensor, Params]:
    """(photos, their features float32 (N, F), the starter's parameters with weights of ImageNet)."""
    params = read_params(ROOT / "model_store/starter/params.yaml")
    params = params.model_copy(update={"weights": str(SHARED / "weights/mobilenetv2_100_imagenet.pth")})
    paths = sorted((SHARED / "data/food10").rglob("*.jpg"))
    names = sorted({path.parent.name for path in paths})

    def make(folder: Path) -> None:
        folder.mkdir()
        np.save(folder / "features.npy", features_of(paths, params)[0].numpy())

    features = torch.from_numpy(np.load(once("dishes", make) / "features.npy"))
    return [Photo(path, names.index(path.parent.name)) for path in paths], features, params
