"""Real photos of ten dishes: their features, by a network that was trained on none of them, and a quick way to train on them."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tests.conftest import ROOT, SHARED
from training.check.features import chosen_features
from training.data.split import Photo
from training.params import Params, read_params

# the head alone is trained, on small crops: seconds an epoch
HEAD_ALONE = {
    "model": "mobilenetv2_035",
    "model_args": {"pad_type": "same"},
    "weights": str(SHARED / "weights/mobilenetv2_035_imagenet.pth"),
    "spec": {"mean": [0.5] * 3, "std": [0.5] * 3, "input_size": [3, 128, 128], "crop_pct": 0.95},
    "freeze": ["conv_stem", "bn1", "blocks", "conv_head", "bn2"],
    "train_size": 128,
    "crop_scale_min": 0.5,
    "augment": "none",
    "mixup": 0.0,
    "cutmix": 0.0,
    "mix_off_epoch": 0,
    "global_batch_size": 32,
    "workers": 0,
    "warmup_epochs": 1.0,
    "ema_decay": 0.9,
    "precision": "float32",
    "label_smoothing": 0.0,
}


def dishes(once) -> tuple[list[Photo], Tensor, Params]:
    """(photos, their features float32 (N, F), the starter's parameters with weights of ImageNet); made once for all tests."""
    params = read_params(ROOT / "model_store/starter/params.yaml")
    params = params.model_copy(update={"weights": str(SHARED / "weights/tf_efficientnet_lite0_imagenet.pth")})
    paths = sorted((SHARED / "data/food10").rglob("*.jpg"))
    names = sorted({path.parent.name for path in paths})

    def make(folder: Path) -> None:
        folder.mkdir()
        np.save(folder / "features.npy", chosen_features(params)[0](paths).numpy())

    features = torch.from_numpy(np.load(once("dishes", make) / "features.npy"))
    return [Photo(path, names.index(path.parent.name)) for path in paths], features, params
