"""Export a checkpoint: `python -m training.export.export --checkpoint runs/latest/checkpoint.pt --out build/1.0.0`.

Writes the program (uint8 crops in; probabilities, confidence, features out) in one of the formats of formats.py, program.json
that describes it, spec.json, index_to_name.json, profile.npz, seen.npy, for a text encoder tokenizer.json, and golden.json, by
which the archive proves itself. Without --format it takes the format that is fastest on this machine, of those that pass the
accuracy gate.
"""

import importlib.metadata
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from handler.data_set import SEEN, save
from handler.signals import PROFILE, save_profiles
from handler.tokens import TOKENIZER
from scripts.atomic import aside
from scripts.command import parser, run
from scripts.model_name import check_model_name
from scripts.phrases import counted
from training.evaluation.confidence import FALSE_POSITIVE_RATE
from training.evaluation.metrics import summarise
from training.export.formats import EXPORT_FORMATS, FASTEST, OnnxError, UnsupportedError, export_to
from training.export.gate import AccuracyGateError, Measured, gate
from training.export.golden import golden_answers
from training.export.profile import reference_profiles
from training.export.program import Prepared, prepare
from training.model import Checkpoint
from training.tracking.store import read_state, tracking_uri

LIBRARIES = ("torch", "timm", "onnx", "openvino", "nncf", "onnxruntime", "pillow", "numpy", "tokenizers", "transformers")


def export(
    checkpoint: Checkpoint,
    out: Path,
    root: Path | None = None,
    format_name: str = "fastest",
    model: str | None = None,
    mlflow_run: str = "not tracked",
) -> str:
    """Write the exported format into the folder `out`, which it replaces whole; the format's name.

    `model` is the model's name, by default the checkpoint's. AccuracyGateError if the format fails the gate,
    UnsupportedError if its library cannot take the network, ValueError as prepare(), or if there is no name.
    """
    model = model or checkpoint.name
    if model is None:
        raise ValueError("the run has no model name: give MODEL=NAME (--model)")
    check_model_name(model)
    prepared = prepare(checkpoint, root)
    with aside(out) as part:
        part.mkdir(parents=True)
        name, passed = choose_format(prepared, part, format_name)
        contents = {
            "program.json": describe(checkpoint, model, name, passed, prepared, mlflow_run),
            "spec.json": prepared.spec.to_dict(),
            "index_to_name.json": {str(index): label for index, label in enumerate(checkpoint.labels)},
            "golden.json": golden_answers(
                prepared.program, prepared.spec, [measured.program for measured in passed], checkpoint.labels
            ),
        }
        for file, content in contents.items():
            (part / file).write_text(json.dumps(content) + "\n", encoding="utf-8")
        if checkpoint.encoder is not None:
            (part / TOKENIZER).write_text(checkpoint.encoder["tokenizer"], encoding="utf-8")
        profiles = reference_profiles(passed, prepared)
        save_profiles(part / PROFILE, profiles)
        save(part / SEEN, [(photo.sha256, photo.path) for photo in prepared.data_set])
    return name


def choose_format(prepared: Prepared, folder: Path, format_name: str) -> tuple[str, list[Measured]]:
    """Write a format into `folder`; its name, and its programs that passed the gate, fastest first.

    "fastest" stands for the format of FASTEST that passes and is fastest on this machine, or for the first of the others that
    passes where a library cannot take the network. AccuracyGateError if none passes, UnsupportedError if none can be written.
    """
    passed: dict[str, list[Measured]] = {}
    unsupported: UnsupportedError | None = None
    refused: AccuracyGateError | None = None
    # each in a folder of its own, as their files have the same names; within `folder`, so that a rename keeps the winner
    with tempfile.TemporaryDirectory(dir=folder) as temp:
        for name in EXPORT_FORMATS if format_name == "fastest" else (format_name,):
            if format_name == "fastest" and name not in FASTEST and (passed or not unsupported):
                break  # the others are for networks that those cannot take
            if isinstance(unsupported, OnnxError) and EXPORT_FORMATS[name].by_onnx:
                continue  # to trace again what cannot be traced would take as long
            try:
                export_to(name, prepared.program, prepared.calibration, Path(temp) / name, prepared.calibration_ids)
                passed[name] = gate(name, Path(temp) / name, prepared.reference)
            except UnsupportedError as error:
                if format_name == "fastest":
                    then = "it is left out" if passed else "the next format is tried"
                    print(f"  {name} cannot take this network ({error}): {then}", flush=True)
                unsupported = unsupported or error
            except AccuracyGateError as error:
                refused = error
        if unsupported and not passed:
            advice = "" if format_name in ("fastest", "torch") else ": try FORMAT=torch"
            raise UnsupportedError(f"the network cannot be exported: {unsupported}{advice}") from unsupported
        if refused and not passed:
            raise refused
        fastest = min(passed, key=lambda name: passed[name][0].metrics["ms_per_photo"])
        for path in (Path(temp) / fastest).iterdir():
            path.rename(folder / path.name)
    return fastest, passed[fastest]


def describe(
    checkpoint: Checkpoint, model: str, format_name: str, passed: Sequence[Measured], prepared: Prepared, mlflow_run: str
) -> dict[str, Any]:
    """The content of program.json: the model's name and format, its accuracy, and where it comes from."""
    # without the time, which is this machine's; the threshold is compared with scores, so it is not rounded
    precisions = {
        measured.program.precision: {
            key: value if key == "confidence_threshold" else round(value, 5)
            for key, value in measured.metrics.items()
            if key != "ms_per_photo"
        }
        for measured in passed
    }
    reference = prepared.reference
    # the logarithm of probabilities are logits; clamped, as float32 rounds the least of them to 0
    accuracy = summarise(torch.from_numpy(reference.expected).clamp(min=1e-12).log(), torch.from_numpy(reference.targets))
    # what is installed, not what is imported: onnx and nncf write the file, though this process may not have them loaded
    installed = {distribution.metadata["Name"].lower(): distribution.version for distribution in importlib.metadata.distributions()}
    return {
        "format": format_name,
        "model": model,
        "file": EXPORT_FORMATS[format_name].file,
        "precisions": precisions,
        "confidence": {"score": "cosine of the features to the nearest class mean", "false_positive_rate": FALSE_POSITIVE_RATE},
        "accuracy": {key: round(value, 5) for key, value in accuracy.items()} | {"of": "float32 torch, on photos never trained on"},
        "provenance": {
            "model": checkpoint.params["model"],
            **({"text_encoder": checkpoint.params["text_encoder"]} if checkpoint.encoder else {}),
            "epoch": checkpoint.epoch,
            "git": checkpoint.git,
            "data": {key: value for key, value in checkpoint.data.items() if key != "root"},
            "mlflow_run": mlflow_run,
            "libraries": {library: installed[library] for library in LIBRARIES if library in installed},
        },
    }


def main() -> None:
    """Command line; see the module's docstring."""
    arguments = parser(__doc__)
    arguments.add_argument("--checkpoint", type=Path, required=True)
    arguments.add_argument("--out", type=Path, required=True, help="folder to write, e.g. build/1.0.0")
    arguments.add_argument("--data", type=Path, help="default: the data set that the checkpoint was trained on")
    arguments.add_argument("--format", choices=["fastest", *EXPORT_FORMATS], default="fastest")
    arguments.add_argument("--model", help="name to serve the model under; default: the one that it was trained with")
    args = arguments.parse_args()
    print(f"exporting {args.checkpoint} ...", flush=True)
    checkpoint = Checkpoint.load(args.checkpoint)
    mlflow_run, _ = read_state(args.checkpoint.resolve().parent, tracking_uri())
    name = export(checkpoint, args.out, args.data, args.format, args.model, mlflow_run or "not tracked")
    size = sum(path.stat().st_size for path in args.out.iterdir())
    network, count = checkpoint.params["model"], len(checkpoint.labels)
    model = args.model or checkpoint.name
    print(f"{args.out}: {model}, {network} with {counted(count, 'class')} for {name}, {size / 1e6:.1f} MB")


if __name__ == "__main__":
    sys.exit(run(main, "nothing was written"))
