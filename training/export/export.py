"""Export a checkpoint: `python -m training.export.export --checkpoint runs/latest/checkpoint.pt --out build/1.0.0`.

Writes the program (uint8 crops in, probabilities and confidence out) in one of the formats of formats.py, program.json that
describes it, spec.json, index_to_name.json and golden.json: generated pictures with the answers that torch computes
for them, by which the archive proves itself wherever it runs. Without --format the fastest on this machine is taken, of those
that pass the gate.
"""

import argparse
import base64
import importlib.metadata
import io
import json
import random
import shutil
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from handler.preprocess import Spec, coarse, preprocess
from handler.program import Program
from training.data.pictures import draw
from training.data.sets import read_data
from training.data.split import Photo
from training.evaluation.confidence import FALSE_ALARM_RATE, Confidence, FeaturesAndLogits, fit_confidence, look, training_photos
from training.evaluation.evaluate import held_out_photos
from training.evaluation.metrics import summarise
from training.export.formats import CALIBRATION_PHOTOS, FASTEST, FORMATS, RefusedError, gate, in_batches
from training.model import Checkpoint, Classifier
from training.params import Params
from training.tracking.journal import read_state, tracking_uri

# float32 on another engine or CPU moves a probability by some 1e-5; a wrong crop or mean moves it by far more
GOLDEN_TOLERANCE = 1e-3
# JPEG decoders on other CPUs may round a pixel the other way; a field of pixels hardly moves
CROP_TOLERANCE = 2
GATE_PHOTOS = 2000  # at most so many held-out photos judge a format: 0.5 points of top-1 are 10 of them
LIBRARIES = ("torch", "timm", "onnx", "openvino", "nncf", "onnxruntime", "pillow", "numpy")


class ExportedProgram(nn.Module):
    """uint8 crops (B, H, W, 3) -> probabilities (B, num_classes), by network, temperature and softmax; and confidence (B,)."""

    def __init__(self, classifier: Classifier, spec: Spec, temperature: float, confidence: Confidence) -> None:
        super().__init__()
        self.classifier = Classifier(FeaturesAndLogits(classifier.network), spec, channels_last=False)
        self.temperature, self.confidence = temperature, confidence

    def forward(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        features, logits = self.classifier(crops)
        return (logits / self.temperature).softmax(1), self.confidence(features, logits)


def golden_pictures() -> dict[str, bytes]:
    """Generated pictures in the formats that photos come in, as files, by name."""
    rng = random.Random(101)

    def encoded(image: Image.Image, image_format: str, **options: Any) -> bytes:
        buffer = io.BytesIO()
        image.save(buffer, image_format, **options)
        return buffer.getvalue()

    held_sideways = Image.Exif()
    held_sideways[0x0112] = 6
    see_through = draw(2, rng, (240, 300)).convert("RGBA")
    see_through.putalpha(Image.linear_gradient("L").resize(see_through.size))
    return {
        "landscape.jpg": encoded(draw(0, rng, (400, 300)), "JPEG", quality=90),
        "sideways.jpg": encoded(draw(1, rng, (400, 260)), "JPEG", quality=90, exif=held_sideways),
        "alpha.png": encoded(see_through, "PNG"),
        "cmyk.jpg": encoded(draw(3, rng, (300, 300)).convert("CMYK"), "JPEG", quality=90),
    }


def golden_answers(program: nn.Module, spec: Spec, passed: Sequence[Program]) -> dict[str, Any]:
    """The content of golden.json: float32 torch's answers, and how far each precision that passed the gate may be off them."""
    pictures = golden_pictures()
    crops = [preprocess(picture, spec) for picture in pictures.values()]  # (H, W, 3)
    batch = np.stack(crops)
    with torch.inference_mode():
        probabilities, confidence = (tensor.numpy() for tensor in program(torch.from_numpy(batch)))
    tolerance = {}
    for other in passed:
        off = max(float(np.abs(a - b).max()) for a, b in zip(other(batch), (probabilities, confidence), strict=True))
        # twice as much as here: other CPUs round otherwise
        tolerance[other.precision] = round(GOLDEN_TOLERANCE + 2 * off, 6)
    photos = [
        {
            "name": name,
            "image": base64.b64encode(picture).decode(),
            "coarse_crop": coarse(crop).tolist(),
            "probabilities": [round(float(p), 7) for p in row],
            "confidence": round(float(score), 7),
        }
        for (name, picture), crop, row, score in zip(pictures.items(), crops, probabilities, confidence, strict=True)
    ]
    return {"tolerance": tolerance, "crop_tolerance": CROP_TOLERANCE, "photos": photos}


def crops_of(photos: Sequence[Photo], spec: Spec) -> np.ndarray:
    """Crops uint8 (N, H, W, 3) as the worker makes them."""
    with ThreadPoolExecutor() as pool:
        return np.stack(list(pool.map(lambda photo: preprocess(photo.path.read_bytes(), spec), photos)))


def load_program(checkpoint: Checkpoint, known: Sequence[Photo]) -> tuple[ExportedProgram, Spec]:
    """The program in float32 torch; its confidence knows these photos, which it was trained on. ValueError if none can be read."""
    classifier, spec = checkpoint.classifier()
    features, logits, left_out = look(classifier, spec, [photo.path for photo in known], torch.device("cpu"))
    targets = torch.tensor([photo.index for photo in known if photo.path not in left_out])
    return ExportedProgram(classifier, spec, checkpoint.temperature, fit_confidence(features, logits, targets)).eval(), spec


@dataclass(frozen=True)
class Prepared:
    """A checkpoint's program in float32 torch and the photos that judge its formats.

    `calibration` and `crops` are uint8 (N, H, W, 3), of photos trained on and held out; `targets` (N,) and `expected`
    (N, num_classes) belong to `crops`: classes, and the program's probabilities.
    """

    program: ExportedProgram
    spec: Spec
    calibration: np.ndarray
    crops: np.ndarray
    targets: np.ndarray
    expected: np.ndarray


def prepare(checkpoint: Checkpoint, root: Path | None) -> Prepared:
    """What export() needs; `root` holds the photos, by default those that it was trained on.

    ValueError as read_data, held_out_photos and load_program, or if none of the photos that it was trained on is there.
    """
    params = Params(**checkpoint.params)
    data = held_out_photos(
        checkpoint, read_data(root or checkpoint.data_root, params.val_fraction, params.seed, Path("build/photo-hashes"))
    )
    seen = training_photos(data.train + data.held_out, checkpoint.trained_on)
    if not seen:
        raise ValueError(f"none of the photos that the checkpoint was trained on is in {data.source}: give their folder by --data")
    program, spec = load_program(checkpoint, seen)
    chosen = random.Random(0).sample(data.held_out, min(len(data.held_out), GATE_PHOTOS))
    crops, targets = crops_of(chosen, spec), np.array([photo.index for photo in chosen])
    calibration = crops_of(random.Random(0).sample(seen, min(len(seen), CALIBRATION_PHOTOS)), spec)
    with torch.inference_mode():
        # LeViT fills its cache of attention biases in the first call, which export must not see
        expected, _ = in_batches(lambda batch: tuple(t.numpy() for t in program(torch.from_numpy(batch))), crops)
    return Prepared(program, spec, calibration, crops, targets, expected)


def export(
    checkpoint: Checkpoint, out: Path, root: Path | None = None, format_name: str = "fastest", mlflow_run: str = "not tracked"
) -> str:
    """Write the exported format into the folder `out`, aside first; a folder that was there is replaced. The format's name.

    RefusedError if the format fails the gate, ValueError as prepare().
    """
    prepared = prepare(checkpoint, root)
    part = out.with_name(out.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        name, passed = choose_format(prepared, part, format_name)
        contents = {
            "program.json": describe(checkpoint, name, passed, prepared, mlflow_run),
            "spec.json": prepared.spec.to_dict(),
            "index_to_name.json": {str(index): label for index, label in enumerate(checkpoint.labels)},
            "golden.json": golden_answers(prepared.program, prepared.spec, [precision for precision, _ in passed]),
        }
        for file, content in contents.items():
            (part / file).write_text(json.dumps(content) + "\n", encoding="utf-8")
        shutil.rmtree(out, ignore_errors=True)
        part.rename(out)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return name


def choose_format(prepared: Prepared, folder: Path, format_name: str) -> tuple[str, list[tuple[Program, dict[str, float]]]]:
    """Write the format into `folder`, of "fastest" the one of FASTEST that passes and is fastest here; its name and what passed.

    RefusedError as gate().
    """
    tried: dict[str, list[tuple[Program, dict[str, float]]]] = {}
    refused: RefusedError | None = None
    for name in FASTEST if format_name == "fastest" else [format_name]:
        work = folder / name
        work.mkdir()
        FORMATS[name].write(prepared.program, prepared.calibration, work / FORMATS[name].file)
        try:
            tried[name] = gate(name, work, prepared.crops, prepared.targets, prepared.expected)
        except RefusedError as error:
            refused = error
    if not tried:
        assert refused is not None
        raise refused
    name = min(tried, key=lambda name: tried[name][0][1]["ms_per_photo"])
    for path in (folder / name).iterdir():
        path.rename(folder / path.name)
    for work in [path for path in folder.iterdir() if path.is_dir()]:
        shutil.rmtree(work)
    return name, tried[name]


def describe(
    checkpoint: Checkpoint, name: str, passed: Sequence[tuple[Program, dict[str, float]]], prepared: Prepared, mlflow_run: str
) -> dict[str, Any]:
    """The content of program.json: what runs, how well, and where it comes from."""
    precisions = {
        # a time says nothing about another machine
        program.precision: {
            key: value if key == "confidence_threshold" else round(value, 5)
            for key, value in figures.items()
            if key != "ms_per_photo"
        }
        for program, figures in passed
    }
    accuracy = summarise(torch.from_numpy(prepared.expected).clamp(min=1e-12).log(), torch.from_numpy(prepared.targets))
    installed = {distribution.metadata["Name"].lower(): distribution.version for distribution in importlib.metadata.distributions()}
    return {
        "format": name,
        "file": FORMATS[name].file,
        "precisions": precisions,
        "confidence": {"score": "cosine of the features to the nearest class mean", "false_alarm_rate": FALSE_ALARM_RATE},
        "accuracy": {key: round(value, 5) for key, value in accuracy.items()} | {"of": "float32 torch, on photos never trained on"},
        "provenance": {
            "model": checkpoint.params["model"],
            "epoch": checkpoint.epoch,
            "git": checkpoint.git,
            "data": {key: value for key, value in checkpoint.data.items() if key != "root"},
            "mlflow_run": mlflow_run,
            "libraries": {library: installed[library] for library in LIBRARIES if library in installed},
        },
    }


def main() -> int:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder to write, e.g. build/1.0.0")
    parser.add_argument("--data", type=Path, help="default: the data set that the checkpoint was trained on")
    parser.add_argument("--format", choices=["fastest", *FORMATS], default="fastest")
    args = parser.parse_args()
    print(f"exporting {args.checkpoint} ...", flush=True)
    try:
        checkpoint = Checkpoint.load(args.checkpoint)
        run, _ = read_state(args.checkpoint.resolve().parent, tracking_uri())
        name = export(checkpoint, args.out, args.data, args.format, run or "not tracked")
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    size = sum(path.stat().st_size for path in args.out.iterdir())
    model, count = checkpoint.params["model"], len(checkpoint.labels)
    print(f"{args.out}: {model} with {count} classes for {name}, {size / 1e6:.1f} MB. Next: make archive")
    return 0


if __name__ == "__main__":
    sys.exit(main())
