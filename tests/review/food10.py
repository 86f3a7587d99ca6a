"""Frozen features of Food-101's ten dishes: ImageNet's mobilenetv2_035 before its head, computed once and kept under build/."""

import zlib

import numpy as np
import timm
import torch

from handler.preprocess import Spec, preprocess
from tests.conftest import ROOT, SHARED

# as these weights want (shared/data/README.md), but smaller: seconds instead of minutes
SPEC = Spec((3, 160, 160), "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), 0.875, "center")
WEIGHTS = SHARED / "weights" / "mobilenetv2_035_imagenet.pth"
BATCH, PHOTOS = 32, 200  # of a class


def features_and_labels():
    """(features (N, 1280), labels (N,), whether a photo is held out (N,): one in four, by its name)."""
    cached = ROOT / "build" / "review" / "food10.npz"
    if not cached.exists():
        cached.parent.mkdir(parents=True, exist_ok=True)
        np.savez(cached, **_computed())
    with np.load(cached) as kept:
        return kept["features"], kept["labels"], kept["held_out"]


def _computed():
    torch.set_num_threads(2)
    model = timm.create_model("mobilenetv2_035", pad_type="same", num_classes=0).eval()
    weights = torch.load(WEIGHTS, map_location="cpu", weights_only=True)
    model.load_state_dict({name: value for name, value in weights.items() if not name.startswith("classifier.")})
    folders = sorted((SHARED / "data" / "food10").iterdir())
    paths = [(path, label) for label, folder in enumerate(folders) for path in sorted(folder.iterdir())[:PHOTOS]]
    features = []
    for start in range(0, len(paths), BATCH):
        crops = np.stack([preprocess(path.read_bytes(), SPEC) for path, _ in paths[start : start + BATCH]])
        with torch.inference_mode():
            photos = torch.from_numpy(crops).permute(0, 3, 1, 2) / 127.5 - 1
            features.append(model.forward_head(model.forward_features(photos), pre_logits=True).numpy())
    held_out = np.array([zlib.crc32(path.name.encode()) % 4 == 0 for path, _ in paths])
    return {"features": np.concatenate(features), "labels": np.array([label for _, label in paths]), "held_out": held_out}
