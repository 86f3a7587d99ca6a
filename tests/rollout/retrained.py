"""Versions of the starter for tests of a bake: its last layer trained again on other photos, or one fault in it."""

import base64
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import ModelProto, numpy_helper
from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]

from handler.preprocess import Spec, coarse, preprocess
from scripts.archive.build import build
from tests.conftest import ROOT

STARTER = ROOT / "model_store" / "starter"
HEAD = "classifier.network.network.classifier"
STEM = "classifier.network.network.conv_stem.weight"
FEATURES, TEMPERATURE, DIRECTIONS = "view", "val_599", "confidence.directions"


def _initializer(model: ModelProto, name: str) -> Any:
    return next(one for one in model.graph.initializer if one.name == name)


def value(model: ModelProto, name: str) -> np.ndarray:
    return numpy_helper.to_array(_initializer(model, name))


def change(model: ModelProto, name: str, new: np.ndarray) -> None:
    _initializer(model, name).CopyFrom(numpy_helper.from_array(np.ascontiguousarray(new, np.float32), name))


def answers(model: ModelProto, crops: np.ndarray, output: str | None = None) -> list[np.ndarray]:
    """Its outputs, or one of its inner ones, for crops uint8 (B, H, W, 3)."""
    if output:
        model = onnx.ModelProto.FromString(model.SerializeToString())
        model.graph.output.append(onnx.helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(model.SerializeToString())
    parts = [session.run([output] if output else None, {"crops": crops[i : i + 16]}) for i in range(0, len(crops), 16)]
    return [np.concatenate(part) for part in zip(*parts, strict=True)]


def labels_permuted(model: ModelProto, spec: dict[str, Any]) -> None:
    change(model, f"{HEAD}.weight", np.roll(value(model, f"{HEAD}.weight"), 1, axis=0))
    change(model, f"{HEAD}.bias", np.roll(value(model, f"{HEAD}.bias"), 1))


def one_class(model: ModelProto, spec: dict[str, Any]) -> None:
    change(model, f"{HEAD}.bias", value(model, f"{HEAD}.bias") + 100 * np.eye(10)[0])


def crop_off(model: ModelProto, spec: dict[str, Any]) -> None:
    spec["crop_pct"] = 0.4  # the middle of the photo alone


def channels_swapped(model: ModelProto, spec: dict[str, Any]) -> None:
    change(model, STEM, value(model, STEM)[:, ::-1])


def calibration_lost(model: ModelProto, spec: dict[str, Any]) -> None:
    change(model, TEMPERATURE, value(model, TEMPERATURE) * 0.05)


FAULTS: list[Callable[[ModelProto, dict[str, Any]], None]] = [
    labels_permuted,
    one_class,
    crop_off,
    channels_swapped,
    calibration_lost,
]


def starter() -> tuple[ModelProto, dict[str, Any]]:
    return onnx.load(STARTER / "model.onnx"), json.loads((STARTER / "spec.json").read_text())


def trained_again(features: np.ndarray, classes: np.ndarray, seed: int) -> ModelProto:
    """The starter with another last layer, trained on a random half of these photos, calibrated on the others."""
    model, _ = starter()
    chosen = np.random.default_rng(seed).permutation(len(features))
    train, rest = chosen[: len(chosen) // 2], chosen[len(chosen) // 2 :]
    fitted = LogisticRegression(C=0.1, max_iter=100).fit(features[train], classes[train])
    logits = features[rest] @ fitted.coef_.T + fitted.intercept_

    def loss(temperature: float) -> float:
        z = logits / temperature
        return float((np.logaddexp.reduce(z, axis=1) - z[np.arange(len(z)), classes[rest]]).mean())

    change(model, f"{HEAD}.weight", fitted.coef_)
    change(model, f"{HEAD}.bias", fitted.intercept_)
    change(model, TEMPERATURE, np.asarray(min(np.geomspace(0.2, 5, 60), key=loss)).reshape(value(model, TEMPERATURE).shape))
    return model


def archive(model: ModelProto, spec: dict[str, Any], version: str, folder: Path) -> Path:
    """Packed, with the golden answers that it gives itself."""
    exported = folder / f"export-{version}"
    shutil.copytree(STARTER, exported)
    onnx.save(model, exported / "model.onnx")
    (exported / "spec.json").write_text(json.dumps(spec))
    golden = json.loads((STARTER / "golden.json").read_text())
    crops = [preprocess(base64.b64decode(photo["image"]), Spec.from_dict(spec)) for photo in golden["photos"]]
    found = zip(golden["photos"], crops, *answers(model, np.stack(crops)), strict=True)
    for photo, crop, row, confidence in found:
        photo |= {"coarse_crop": coarse(crop).tolist(), "probabilities": row.tolist(), "confidence": float(confidence)}
    golden["tolerance"] = dict.fromkeys(golden["tolerance"], 0.05)  # a lost calibration makes much of what CPUs round
    (exported / "golden.json").write_text(json.dumps(golden))
    return build(exported, version, folder)
