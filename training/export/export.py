"""Export a checkpoint: `python -m training.export.export --checkpoint runs/latest/checkpoint.pt --out build/1.0.0`.

Writes the program (uint8 crops in; probabilities, confidence, features out) in formats of formats.py, program.json that describes
them, spec.json, index_to_name.json, profile.npz, seen.npy, for a text encoder tokenizer.json, and golden.json, by which the archive
proves itself. Without --format it takes all of FASTEST that pass the accuracy gate, of which a worker takes the one that is fastest
where it runs.
"""

import importlib.metadata
import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from handler.data_set import SEEN, save
from handler.expected import name_in_float
from handler.program import OpenVinoProgram, Program
from handler.signals import PROFILE, save_profiles
from handler.tokens import TOKENIZER
from scripts.atomic import aside
from scripts.command import parser, run
from scripts.model_name import check_model_name
from scripts.phrases import counted
from training.evaluation.confidence import FALSE_POSITIVE_RATE, SCORE
from training.evaluation.metrics import summarise
from training.export.formats import EXPORT_FORMATS, FASTEST, OnnxError, UnsupportedError, export_to
from training.export.gate import BATCH, AccuracyGateError, Measured, gate
from training.export.golden import golden_answers
from training.export.profile import reference_profiles
from training.export.program import Prepared, prepare
from training.model import Checkpoint
from training.tracking.store import read_state, tracking_uri

LIBRARIES = (
    "torch",
    "timm",
    "onnx",
    "openvino",
    "nncf",
    "onnxruntime",
    "pillow",
    "cykooz-resizer",
    "numpy",
    "tokenizers",
    "transformers",
)


def export(
    checkpoint: Checkpoint,
    out: Path,
    root: Path | None = None,
    format_name: str = "fastest",
    model: str | None = None,
    mlflow_run: str = "not tracked",
) -> list[str]:
    """Write the exported formats into the folder `out`, which it replaces whole; the programs' names, fastest here first.

    All else that it writes is the same each time, whatever the clock says.

    `format_name` is one, several with commas between, or "fastest": those of FASTEST. `model` is the model's name, by default the
    checkpoint's. AccuracyGateError if no format passes the gate, UnsupportedError if their libraries cannot take the network,
    ValueError as prepare(), for an unknown format, or if there is no name.
    """
    model = model or checkpoint.name
    if model is None:
        raise ValueError("the run has no model name: give MODEL=NAME (--model)")
    check_model_name(model)
    wanted = formats_of(format_name)
    prepared = prepare(checkpoint, root)
    with aside(out) as part:
        part.mkdir(parents=True)
        passed = write_formats(prepared, part, wanted)
        contents = {
            "program.json": describe(checkpoint, model, passed, prepared, mlflow_run),
            "spec.json": prepared.spec.to_dict(),
            "index_to_name.json": {str(index): label for index, label in enumerate(checkpoint.labels)},
            "golden.json": golden_answers(prepared.program, prepared.spec, provers(passed, part), checkpoint.labels),
        }
        for file, content in contents.items():
            (part / file).write_text(json.dumps(content) + "\n", encoding="utf-8")
        if checkpoint.encoder is not None:
            (part / TOKENIZER).write_text(checkpoint.encoder["tokenizer"], encoding="utf-8")
        profiles = reference_profiles(passed, prepared)
        save_profiles(part / PROFILE, profiles)
        save(part / SEEN, [(photo.sha256, photo.path) for photo in prepared.data_set])
    return [one.name for one in sorted(passed, key=lambda one: one.metrics["ms_per_photo"])]


def formats_of(format_name: str) -> list[str]:
    """The formats of --format, with commas between, each once; none for "fastest". ValueError for one that is unknown."""
    names = [] if format_name == "fastest" else list(dict.fromkeys(name.strip() for name in format_name.split(",")))
    if unknown := [name for name in names if name not in EXPORT_FORMATS]:
        raise ValueError(f"FORMAT is {format_name!r}, expected some of {', '.join(EXPORT_FORMATS)}, not {unknown[0]!r}")
    return names


def write_formats(prepared: Prepared, folder: Path, wanted: Sequence[str] = ()) -> list[Measured]:
    """Write formats into `folder`; their programs that passed the gate, in the order of EXPORT_FORMATS and their precisions.

    Of `wanted` formats, or else of FASTEST, all that pass; where a library cannot take the network, the first of the others that
    passes. AccuracyGateError if none passes, UnsupportedError if none can be written.
    """
    passed: dict[str, list[Measured]] = {}
    tried = {*(wanted or FASTEST)}
    unsupported: UnsupportedError | None = None
    cannot = ""
    refused: AccuracyGateError | None = None
    # each in a folder of its own, as what does not pass is not kept; within `folder`, so that a rename keeps the others
    with tempfile.TemporaryDirectory(dir=folder) as temp:
        for name in wanted or EXPORT_FORMATS:
            if not wanted and name not in FASTEST and (passed or not unsupported):
                break  # the others are for networks that those cannot take
            tried.add(name)
            if isinstance(unsupported, OnnxError) and EXPORT_FORMATS[name].by_onnx:
                continue  # to trace again what cannot be traced would take as long
            try:
                _write_once(name, prepared, Path(temp))
                passed[name] = gate(name, Path(temp) / name, prepared.reference, tried)
            except UnsupportedError as error:
                reason = f"{name} cannot take this network ({error})"
                if len(wanted) != 1:
                    then = "it is left out" if passed or wanted else "the next format is tried"
                    print(f"  {reason}: {then}", flush=True)
                unsupported, cannot = unsupported or error, cannot or reason
            except AccuracyGateError as error:
                refused = error
        if refused and not passed:
            raise AccuracyGateError("; ".join(filter(None, (cannot, str(refused))))) from refused
        if unsupported and not passed:
            advice = "" if not wanted or "torch" in wanted else ": try FORMAT=torch"
            raise UnsupportedError(f"the network cannot be exported: {unsupported}{advice}") from unsupported
        for name in passed:
            for path in (Path(temp) / name).iterdir():
                path.replace(folder / path.name)
    # not in that of their times, which differ from run to run
    return [one for name in EXPORT_FORMATS for one in passed.get(name, ())]


def _write_once(name: str, prepared: Prepared, folder: Path) -> None:
    """Write a format into folder/NAME, by a copy where another format has written the same file there."""
    export_format = EXPORT_FORMATS[name]
    for other, known in EXPORT_FORMATS.items():
        same = other != name and (known.file, known.write) == (export_format.file, export_format.write)
        if same and (folder / other / known.file).is_file():
            shutil.copytree(folder / other, folder / name)
            return
    export_to(name, prepared.program, prepared.calibration, folder / name, prepared.calibration_ids)


def provers(passed: Sequence[Measured], folder: Path) -> dict[str, Program]:
    """The programs by name, and OpenVINO's int8 once more, as a CPU without exact int8 computes it: each has golden answers."""
    return {one.name: one.program for one in passed} | {
        name_in_float(one.name): OpenVinoProgram(
            folder / EXPORT_FORMATS[one.format_name].file, one.program.precision, 0, (1, BATCH), in_float=True
        )
        for one in passed
        if one.format_name == "openvino-int8" and one.program.precision.startswith("int8")
    }


def describe(checkpoint: Checkpoint, model: str, passed: Sequence[Measured], prepared: Prepared, mlflow_run: str) -> dict[str, Any]:
    """The content of program.json: the model's name and programs, its accuracy, and where it comes from."""
    # without the time, which is this machine's; the threshold is compared with scores, so it is not rounded
    programs = {
        measured.name: {
            "format": measured.format_name,
            "precision": measured.program.precision,
            "file": EXPORT_FORMATS[measured.format_name].file,
            **{
                key: value if key == "confidence_threshold" else round(value, 5)
                for key, value in measured.metrics.items()
                if key != "ms_per_photo"
            },
        }
        for measured in passed
    }
    reference = prepared.reference
    # the logarithm of probabilities are logits; clamped, as float32 rounds the least of them to 0
    accuracy = summarise(torch.from_numpy(reference.expected).clamp(min=1e-12).log(), torch.from_numpy(reference.targets))
    # what is installed, not what is imported: onnx and nncf write the file, though this process may not have them loaded
    installed = {distribution.metadata["Name"].lower(): distribution.version for distribution in importlib.metadata.distributions()}
    return {
        "model": model,
        "programs": programs,
        "confidence": {"score": SCORE, "false_positive_rate": FALSE_POSITIVE_RATE},
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
    formats = f"some of {', '.join(EXPORT_FORMATS)}; default: of {' and '.join(FASTEST)} those that pass the accuracy gate"
    arguments.add_argument("--format", metavar="FORMAT,...", default="fastest", help=formats)
    arguments.add_argument("--model", help="name to serve the model under; default: the one that it was trained with")
    args = arguments.parse_args()
    print(f"exporting {args.checkpoint} ...", flush=True)
    checkpoint = Checkpoint.load(args.checkpoint)
    mlflow_run, _ = read_state(args.checkpoint.resolve().parent, tracking_uri())
    names = export(checkpoint, args.out, args.data, args.format, args.model, mlflow_run or "not tracked")
    size = sum(path.stat().st_size for path in args.out.iterdir())
    network, count = checkpoint.params["model"], len(checkpoint.labels)
    model = args.model or checkpoint.name
    print(f"{args.out}: {model}, {network} with {counted(count, 'class')} for {', '.join(names)}, {size / 1e6:.1f} MB")


if __name__ == "__main__":
    sys.exit(run(main, "nothing was written"))
