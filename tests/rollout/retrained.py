"""Versions of the starter for tests of a bake: its last layer trained again on other photos, or one fault in that.

All take small crops, as a third of the work is enough here.
"""

import base64
import copy
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime
from onnx import ModelProto, numpy_helper
from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from handler.preprocess import Spec, coarse, preprocess
from scripts.archive.build import build
from tests.conftest import ROOT

STARTER = ROOT / "model_store" / "starter"
HEAD = "classifier.network.network.classifier"
STEM = "classifier.network.network.conv_stem.weight"
TEMPERATURE, DIRECTIONS = "val_599", "confidence.directions"
SIZE = 128
UNSURE = 0.05  # of ordinary photos, as in training/evaluation/confidence.py


def _initializer(model: ModelProto, name: str) -> Any:
    return next(one for one in model.graph.initializer if one.name == name)


def value(model: ModelProto, name: str) -> np.ndarray:
    return numpy_helper.to_array(_initializer(model, name))


def change(model: ModelProto, name: str, new: np.ndarray) -> None:
    _initializer(model, name).CopyFrom(numpy_helper.from_array(np.ascontiguousarray(new, np.float32), name))


def answers(model: ModelProto, crops: np.ndarray) -> list[np.ndarray]:
    """Probabilities (B, C), confidence (B,) and features (B, D) of crops uint8 (B, H, W, 3)."""
    session = onnxruntime.InferenceSession(model.SerializeToString())
    parts = [session.run(None, {"crops": crops[i : i + 16]}) for i in range(0, len(crops), 16)]
    return [np.concatenate(part) for part in zip(*parts, strict=True)]


Fault = Callable[[ModelProto, dict[str, Any]], None]


def labels_permuted(model: ModelProto, spec: dict[str, Any]) -> None:
    change(model, f"{HEAD}.weight", np.roll(value(model, f"{HEAD}.weight"), 1, axis=0))
    change(model, f"{HEAD}.bias", np.roll(value(model, f"{HEAD}.bias"), 1))


def one_class(model: ModelProto, spec: dict[str, Any]) -> None:
    change(model, f"{HEAD}.bias", value(model, f"{HEAD}.bias") + 100 * np.eye(10)[0])


def crop_off(model: ModelProto, spec: dict[str, Any]) -> None:
    spec["crop_pct"] = 0.2  # a small piece of the photo


def channels_swapped(model: ModelProto, spec: dict[str, Any]) -> None:
    change(model, STEM, value(model, STEM)[:, ::-1])


def calibration_lost(model: ModelProto, spec: dict[str, Any]) -> None:
    change(model, TEMPERATURE, value(model, TEMPERATURE) * 0.05)


FAULTS: list[Fault] = [labels_permuted, one_class, crop_off, channels_swapped, calibration_lost]


class Export(NamedTuple):
    """What an archive is built of."""

    model: ModelProto
    spec: dict[str, Any]
    threshold: float  # of confidence

    def broken(self, fault: Fault) -> "Export":
        """A copy with this fault."""
        other = copy.deepcopy(self)
        fault(other.model, other.spec)
        return other


def starter() -> tuple[ModelProto, dict[str, Any]]:
    """The network and its spec, for small crops. It pads alike for all multiples of 32."""
    model = onnx.load(STARTER / "model.onnx")
    for side in model.graph.input[0].type.tensor_type.shape.dim[1:3]:
        side.dim_value = SIZE
    del model.graph.value_info[:]  # the shapes of larger crops
    return model, json.loads((STARTER / "spec.json").read_text()) | {"input_size": [3, SIZE, SIZE]}


def features_of(photos: Sequence[bytes]) -> np.ndarray:
    """float32 (N, 1280)."""
    model, spec = starter()
    return answers(model, np.stack([preprocess(photo, Spec.from_dict(spec)) for photo in photos]))[2]


def trained_again(features: np.ndarray, classes: np.ndarray, seed: int) -> Export:
    """The starter with another last layer, trained on a random half of these photos, calibrated on the others."""
    model, spec = starter()
    chosen = np.random.default_rng(seed).permutation(len(features))
    train, rest = chosen[: len(chosen) // 2], chosen[len(chosen) // 2 :]
    with threadpool_limits(1):  # threads that wait for each other take minutes where others use the cores
        fitted = LogisticRegression(C=0.1, max_iter=100).fit(features[train], classes[train])
    logits = features[rest] @ fitted.coef_.T + fitted.intercept_

    def loss(temperature: float) -> float:
        z = logits / temperature
        return float((np.logaddexp.reduce(z, axis=1) - z[np.arange(len(z)), classes[rest]]).mean())

    change(model, f"{HEAD}.weight", fitted.coef_)
    change(model, f"{HEAD}.bias", fitted.intercept_)
    change(model, TEMPERATURE, np.asarray(min(np.geomspace(0.2, 5, 60), key=loss)).reshape(value(model, TEMPERATURE).shape))
    directions = np.stack([features[train][classes[train] == i].mean(axis=0) for i in range(10)], axis=1)
    directions /= np.linalg.norm(directions, axis=0)
    change(model, DIRECTIONS, directions)
    scores = (features[rest] @ directions).max(axis=1) / np.linalg.norm(features[rest], axis=1)
    return Export(model, spec, float(np.quantile(scores, UNSURE)))


def archive(export: Export, version: str, folder: Path) -> Path:
    """Packed, with the golden answers that it gives itself."""
    model, spec, threshold = export
    exported = folder / f"export-{version}"
    shutil.copytree(STARTER, exported)
    onnx.save(model, exported / "model.onnx")
    (exported / "spec.json").write_text(json.dumps(spec))
    program = json.loads((STARTER / "program.json").read_text())
    program["precisions"]["f32"]["confidence_threshold"] = threshold
    (exported / "program.json").write_text(json.dumps(program))
    golden = json.loads((STARTER / "golden.json").read_text())
    crops = [preprocess(base64.b64decode(photo["image"]), Spec.from_dict(spec)) for photo in golden["photos"]]
    found = zip(golden["photos"], crops, *answers(model, np.stack(crops))[:2], strict=True)
    for photo, crop, row, confidence in found:
        photo |= {"coarse_crop": coarse(crop).tolist(), "probabilities": row.tolist(), "confidence": float(confidence)}
    golden["tolerance"] = dict.fromkeys(golden["tolerance"], 0.05)  # a lost calibration makes much of what CPUs round
    (exported / "golden.json").write_text(json.dumps(golden))
    return build(exported, version, folder)
