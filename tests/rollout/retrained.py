"""Versions of the starter for tests of a bake: its last layer trained again on other photos, or one fault in that.

All take small crops, as a third of the work is enough here.
"""

import base64
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
from openvino import opset13 as op
from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from handler.openvino_models import openvino_core
from handler.preprocess import Spec, coarse, preprocess
from scripts.archive.build import build
from tests.conftest import ROOT

STARTER = ROOT / "model_store" / "starter"
SIZE = 128
UNSURE = 0.05  # of ordinary photos, as in training/evaluation/confidence.py
SPEC = json.loads((STARTER / "spec.json").read_text()) | {"input_size": [3, SIZE, SIZE]}


@dataclass(frozen=True)
class Export:
    """What an archive is built of: the starter's features, and the end of its program anew."""

    weight: np.ndarray  # (C, F)
    bias: np.ndarray  # (C,)
    temperature: float
    directions: np.ndarray  # (F, C), unit class means
    threshold: float  # of confidence
    spec: dict[str, Any] = field(default_factory=lambda: SPEC)
    channels: tuple[int, int, int] = (0, 1, 2)

    def model(self) -> ov.Model:
        """The program, for small crops: the network pads alike for all multiples of 32."""
        _, crops, features = starter()
        if self.channels != (0, 1, 2):
            readers = crops.output(0).get_target_inputs()
            swapped = op.gather(crops, np.array(self.channels), np.array(3))
            for reader in readers:
                reader.replace_source_output(swapped.output(0))
        logits = op.add(op.matmul(features, _float32(self.weight), False, True), _float32(self.bias))
        probabilities = op.softmax(op.divide(logits, _float32(self.temperature)), 1)
        nearest = op.reduce_max(op.matmul(features, _float32(self.directions), False, False), np.array([1]))
        confidence = op.divide(nearest, op.maximum(op.reduce_l2(features, np.array([1])), _float32(1e-6)))
        outputs = {"probabilities": probabilities, "confidence": confidence, "features": features}
        for name, node in outputs.items():
            (node if isinstance(node, ov.Output) else node.output(0)).get_tensor().set_names({name})
        return ov.Model([op.result(node) for node in outputs.values()], [crops])


def _float32(value: Any) -> np.ndarray:
    return np.asarray(value, np.float32)


def starter() -> tuple[ov.Model, Any, Any]:
    """The starter's program for small crops, what it takes and the features that it gives."""
    model = openvino_core().read_model(STARTER / "model.xml")
    model.reshape({"crops": [-1, SIZE, SIZE, 3]})
    return model, model.get_parameters()[0], model.output("features").get_node().input_value(0)


def answers(model: ov.Model, crops: np.ndarray) -> list[np.ndarray]:
    """Probabilities (B, C), confidence (B,) and features (B, D) of crops uint8 (B, H, W, 3)."""
    compiled = openvino_core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})  # as a worker does
    parts = [compiled(crops[i : i + 16]) for i in range(0, len(crops), 16)]
    return [np.concatenate([part[name] for part in parts]) for name in ("probabilities", "confidence", "features")]


Fault = Callable[[Export], Export]


def labels_permuted(export: Export) -> Export:
    return replace(export, weight=np.roll(export.weight, 1, axis=0), bias=np.roll(export.bias, 1))


def one_class(export: Export) -> Export:
    return replace(export, bias=export.bias + 100 * np.eye(10)[0])


def crop_off(export: Export) -> Export:
    return replace(export, spec=export.spec | {"crop_pct": 0.2})  # a small piece of the photo


def channels_swapped(export: Export) -> Export:
    return replace(export, channels=(2, 1, 0))


def calibration_lost(export: Export) -> Export:
    return replace(export, temperature=0.05 * export.temperature)


FAULTS: list[Fault] = [labels_permuted, one_class, crop_off, channels_swapped, calibration_lost]


def features_of(photos: Sequence[bytes]) -> np.ndarray:
    """float32 (N, 1280)."""
    model, _, _ = starter()
    return answers(model, np.stack([preprocess(photo, Spec.from_dict(SPEC)) for photo in photos]))[2]


def trained_again(features: np.ndarray, classes: np.ndarray, seed: int) -> Export:
    """The starter with another last layer, trained on a random half of these photos, calibrated on the others."""
    chosen = np.random.default_rng(seed).permutation(len(features))
    train, rest = chosen[: len(chosen) // 2], chosen[len(chosen) // 2 :]
    with threadpool_limits(1):  # threads that wait for each other take minutes where others use the cores
        fitted = LogisticRegression(C=0.1, max_iter=100).fit(features[train], classes[train])
    logits = features[rest] @ fitted.coef_.T + fitted.intercept_

    def loss(temperature: float) -> float:
        z = logits / temperature
        return float((np.logaddexp.reduce(z, axis=1) - z[np.arange(len(z)), classes[rest]]).mean())

    directions = np.stack([features[train][classes[train] == i].mean(axis=0) for i in range(10)], axis=1)
    directions /= np.linalg.norm(directions, axis=0)
    scores = (features[rest] @ directions).max(axis=1) / np.linalg.norm(features[rest], axis=1)
    temperature = float(min(np.geomspace(0.2, 5, 60), key=loss))
    return Export(fitted.coef_, fitted.intercept_, temperature, directions, float(np.quantile(scores, UNSURE)))


def archive(export: Export, version: str, folder: Path) -> Path:
    """Packed, with the golden answers that it gives itself."""
    model, exported = export.model(), folder / f"export-{version}"
    shutil.copytree(STARTER, exported)
    ov.save_model(model, exported / "model.xml", compress_to_fp16=False)
    (exported / "spec.json").write_text(json.dumps(export.spec))
    program = json.loads((STARTER / "program.json").read_text())
    (about,) = program["programs"].values()
    about["confidence_threshold"] = export.threshold
    (exported / "program.json").write_text(json.dumps(program))
    golden = json.loads((STARTER / "golden.json").read_text())
    crops = [preprocess(base64.b64decode(photo["image"]), Spec.from_dict(export.spec)) for photo in golden["photos"]]
    for photo, crop in zip(golden["photos"], crops, strict=True):
        photo["coarse_crop"] = coarse(crop).tolist()
    probabilities, confidence, _ = answers(model, np.stack(crops))
    # a lost calibration makes much of what parts of another size round
    own = {"probabilities": probabilities.tolist(), "confidence": confidence.tolist(), "tolerance": 0.05}
    golden["programs"] = dict.fromkeys(program["programs"], own)
    (exported / "golden.json").write_text(json.dumps(golden))
    return build(exported, version, folder)
