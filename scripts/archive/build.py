"""Pack an exported model into a TorchServe archive: `python -m scripts.archive.build build/1.0.0 --version 1.0.0`.

Writes model_store/MODEL-1.0.0.mar, with the model's name of program.json or of --model: the same inputs give the same bytes.
Before it gets its name, the archive is unpacked and answers its golden photos in a process that sees only its content and the
installed packages. provenance.json in it, and a .json beside it, list its parts and where it comes from.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from handler.data_set import SEEN
from handler.parts import PROVENANCE, checksums, sha256
from handler.program import programs_of
from handler.signals import PROFILE
from handler.tokens import TOKENIZER
from scripts.archive.name import archive_name, split_name
from scripts.archive.pack import pack
from scripts.archive.read import MANIFEST, load_handler, read_manifest
from scripts.archive.unzip import extract
from scripts.atomic import aside, write_json
from scripts.command import parser, run
from scripts.paths import ROOT

HANDLER_DIR = ROOT / "handler"
EXPORTED = ("program.json", "spec.json", "index_to_name.json", "golden.json")


def read_program(exported: Path) -> dict[str, Any]:
    """An exported model's program.json. ValueError unless the folder holds what `make export` writes."""
    missing = [name for name in EXPORTED if not (exported / name).is_file()]
    if missing:
        raise ValueError(f"{exported} is not an exported model: {missing} missing; make export writes them")
    program: dict[str, Any] = json.loads((exported / "program.json").read_text(encoding="utf-8"))
    return program


def model_of(exported: Path) -> str:
    """The name under which the model was trained. ValueError if it has none."""
    program = read_program(exported)
    if "model" not in program:
        raise ValueError(f'{exported / "program.json"} has no "model", so a name is needed: --model NAME, in make MODEL=NAME')
    return str(program["model"])


def stage(exported: Path, model: str, version: str, work: Path) -> Path:
    """The archive's content as a folder, made by torch-model-archiver inside `work`."""
    # two programs may have one file; OpenVINO's own format keeps its weights in a file beside it
    files = sorted({about["file"] for about in programs_of(read_program(exported)).values()})
    names = [*EXPORTED, *files, *(Path(file).with_suffix(".bin").name for file in files if file.endswith(".xml"))]
    extra, temp, out = work / "extra", work / "temp", work / "staged"
    temp.mkdir()
    out.mkdir()
    package = extra / "handler"
    package.mkdir(parents=True)
    for source in sorted(HANDLER_DIR.glob("*.py")):
        if source.name != "seefood_handler.py":  # --handler puts that one at the top, where TorchServe looks for it
            shutil.copyfile(source, package / source.name)
    # none in what earlier versions exported, and where there were no photos to measure
    names += [name for name in (PROFILE, SEEN, TOKENIZER) if (exported / name).is_file()]
    for name in names:
        shutil.copyfile(exported / name, extra / name)
    command = [str(Path(sys.executable).with_name("torch-model-archiver")), "--model-name", model, "--version", version]
    command += ["--handler", str(HANDLER_DIR / "seefood_handler.py"), "--config-file", str(HANDLER_DIR / "model-config.yaml")]
    command += ["--extra-files", str(extra), "--archive-format", "no-archive", "--export-path", str(out)]
    # it stages in <temp>/<model name>: a temp folder of its own, or two builds at a time would mix
    done = subprocess.run(command, env={**os.environ, "TMPDIR": str(temp)}, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ValueError(f"torch-model-archiver failed: {(done.stdout + done.stderr).strip()}")
    staged = out / model
    # a fixed date: nothing else in it differs from build to build, and the same inputs shall give the same bytes
    manifest = read_manifest(staged) | {"createdOn": "01/01/1980 00:00:00"}
    (staged / MANIFEST).write_text(json.dumps(manifest, indent=2, sort_keys=True), encoding="utf-8")
    write_json(staged / PROVENANCE, provenance_of(staged))
    return staged


def provenance_of(folder: Path) -> dict[str, Any]:
    """Where a staged archive comes from, and the checksum of each part."""
    model = read_manifest(folder)["model"]
    program = json.loads((folder / "program.json").read_text(encoding="utf-8"))
    return {
        "model": model["modelName"],
        "version": model["modelVersion"],
        "programs": programs_of(program),
        "accuracy": program["accuracy"],
        "training": program["provenance"],
        "parts": checksums(folder),
    }


def check(archive: Path) -> None:
    """Let an archive prove itself in a clean process. ValueError with the last line of that process's log if it cannot."""
    with tempfile.TemporaryDirectory() as folder:
        extract(archive, Path(folder))
        # -I: without this checkout and PYTHONPATH on its path, as in a server's worker
        command = [sys.executable, "-I", "-m", "scripts.archive.build", "--check-folder", folder]
        # it is the archive that is checked: neither a FORMAT that somebody serves, nor what is remembered of others
        environment = {name: value for name, value in os.environ.items() if name not in ("SEEFOOD_FORMAT", "SEEFOOD_PROGRAMS_DIR")}
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        # libraries print warnings before the error, and a traceback ends with it
        reason = done.stderr.strip().splitlines()[-1].removeprefix("error: ")
        raise ValueError(f"the archive fails its check: {reason}")


def build(exported: Path, version: str, model_store: Path, force: bool = False, model: str | None = None) -> Path:
    """Write model_store/MODEL-VERSION.mar and its .json, and return its path. ValueError if it is there or fails its check.

    `model` is the name to give it, in place of program.json's.
    """
    model = model or model_of(exported)
    target = model_store / archive_name(model, version)
    if target.exists() and not force:
        raise ValueError(f"{target} exists, and a version is never overwritten: choose another VERSION")
    model_store.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as work, aside(target) as part:
        staged = stage(exported, model, version, Path(work))
        pack(staged, part)
        check(part)
        provenance = json.loads((staged / PROVENANCE).read_text(encoding="utf-8"))
    # once the archive has its name: the .json must never describe one that is not there
    facts = {"archive": target.name, "sha256": sha256(target), "bytes": target.stat().st_size}
    write_json(target.with_suffix(".json"), facts | provenance)
    return target


def main() -> int:
    """Command line; see the module's docstring."""
    arguments = parser(__doc__)
    arguments.add_argument("exported", type=Path, nargs="?", help="folder that make export wrote")
    arguments.add_argument("--version", help="e.g. 1.0.0 or 1.1.0-rc.1: semver.org")
    arguments.add_argument("--model", metavar="NAME", help="name to serve it under; default: the one it was trained under")
    arguments.add_argument("--model-store", type=Path, default=ROOT / "model_store")
    arguments.add_argument("--force", action="store_true", help="overwrite (for the starter, which is built from committed files)")
    arguments.add_argument("--check-folder", type=Path, help=argparse.SUPPRESS)  # check() calls it, in a process of its own
    args = arguments.parse_args()
    if args.check_folder:
        load_handler(args.check_folder)
        return 0
    if args.exported is None or args.version is None:
        arguments.error("give the exported folder and --version")
    print(f"packing {args.exported} and checking it in a clean process ...", flush=True)
    target = build(args.exported, args.version, args.model_store, args.force, args.model)
    model, _ = split_name(target)
    print(
        f"{target}: {target.stat().st_size / 1e6:.1f} MB, golden photos answered in a clean process. Next:\n"
        f"make serve MODEL={model}, or make rollout MODEL={model} VERSION={args.version} where a server is running"
    )
    return 0


if __name__ == "__main__":
    sys.exit(run(main, "nothing was written"))
