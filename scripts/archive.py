"""Pack an exported model into a TorchServe archive: `python scripts/archive.py build/1.0.0 --version 1.0.0`.

Writes model_store/seefood-1.0.0.mar: the same inputs give the same bytes. Before it gets its name, the archive is
unpacked and answers its golden photos in a process that sees only its content and the installed packages.
"""

import argparse
import importlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import yaml

MODEL = "seefood"
HANDLER_DIR = Path(__file__).resolve().parent.parent / "handler"
EXPORTED = ("program.json", "spec.json", "index_to_name.json", "golden.json")
MANIFEST = Path("MAR-INF/MANIFEST.json")
# the oldest date that a zip entry can have
EPOCH = (1980, 1, 1, 0, 0, 0)


def archive_name(version: str) -> str:
    """File name of a version's archive. ValueError unless the version is three numbers."""
    if not re.fullmatch(r"\d+\.\d+\.\d+", version):
        raise ValueError(f"version is {version!r}, expected three numbers such as 1.0.0")
    return f"{MODEL}-{version}.mar"


def archive_version(path: Path) -> tuple[int, ...]:
    """(1, 0, 0) of seefood-1.0.0.mar, to sort by."""
    return tuple(int(number) for number in path.stem.removeprefix(f"{MODEL}-").split("."))


def find_archives(model_store: Path) -> list[Path]:
    """All archives with a proper name, oldest version first."""
    found = [path for path in model_store.glob(f"{MODEL}-*.mar") if re.fullmatch(rf"{MODEL}-\d+\.\d+\.\d+\.mar", path.name)]
    return sorted(found, key=archive_version)


def choose_archive(model_store: Path, version: str | None) -> Path:
    """The archive of that version, else the newest. ValueError if there is none."""
    archives = find_archives(model_store)
    if version is not None:
        archives = [path for path in archives if path.name == archive_name(version)]
    if not archives:
        there = [path.name for path in find_archives(model_store)]
        raise ValueError(f"no archive {version or ''} in {model_store}, there are {there}; make archive VERSION=1.0.0 builds one")
    return archives[-1]


def stage(exported: Path, version: str, work: Path) -> Path:
    """The archive's content as a folder, made by torch-model-archiver inside `work`."""
    missing = [name for name in EXPORTED if not (exported / name).is_file()]
    if missing:
        raise ValueError(f"{exported} is no exported model: {missing} missing; make export writes them")
    program = json.loads((exported / "program.json").read_text(encoding="utf-8"))["file"]
    # OpenVINO's own form keeps its weights in a file beside it
    names = [*EXPORTED, program, *([Path(program).with_suffix(".bin").name] if program.endswith(".xml") else [])]
    extra, temp = work / "extra", work / "temp"
    temp.mkdir()
    package = extra / "handler"
    package.mkdir(parents=True)
    for source in sorted(HANDLER_DIR.glob("*.py")):
        if source.name != "seefood_handler.py":
            shutil.copyfile(source, package / source.name)
    for name in names:
        shutil.copyfile(exported / name, extra / name)
    command = [
        str(Path(sys.executable).with_name("torch-model-archiver")),
        *("--model-name", MODEL, "--version", version),
        *("--handler", str(HANDLER_DIR / "seefood_handler.py"), "--config-file", str(HANDLER_DIR / "model-config.yaml")),
        *("--extra-files", str(extra), "--archive-format", "no-archive", "--export-path", str(work)),
    ]
    # it stages in <temp>/<model name>: a temp folder of its own, or two builds at a time would mix
    done = subprocess.run(command, env={**os.environ, "TMPDIR": str(temp)}, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ValueError(f"torch-model-archiver failed: {(done.stdout + done.stderr).strip()}")
    manifest = json.loads((work / MODEL / MANIFEST).read_text(encoding="utf-8"))
    manifest["createdOn"] = "01/01/1980 00:00:00"  # the one thing in it that changes from build to build
    (work / MODEL / MANIFEST).write_text(json.dumps(manifest, indent=2, sort_keys=True), encoding="utf-8")
    return work / MODEL


def pack(folder: Path, path: Path) -> None:
    """Zip a folder: entries sorted, dates and modes fixed, so that the same files give the same bytes."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(file for file in folder.rglob("*") if file.is_file()):
            entry = zipfile.ZipInfo(file.relative_to(folder).as_posix(), EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, file.read_bytes())


def load_handler(unpacked: Path) -> Any:
    """The archive's own handler, initialised from the folder that it is unpacked in, as TorchServe's worker does it.

    One archive a process: its `handler` package is imported from there. ValueError if it does not answer its golden photos.
    """
    for name in [name for name in sys.modules if name.split(".")[0] in ("handler", "seefood_handler")]:
        del sys.modules[name]
    before = set(sys.modules)
    sys.path.insert(0, str(unpacked))
    handler = importlib.import_module("seefood_handler").SeefoodHandler()
    strangers = [
        name
        for name, module in sys.modules.items()
        if name not in before
        and name.split(".")[0] in ("handler", "training", "scripts")
        and not str(getattr(module, "__file__", None) or unpacked).startswith(str(unpacked))
    ]
    if strangers:
        raise ValueError(f"the archive does not hold all that it imports: {strangers} came from elsewhere")
    manifest = json.loads((unpacked / MANIFEST).read_text(encoding="utf-8"))
    config = yaml.safe_load((unpacked / manifest["model"]["configFile"]).read_text(encoding="utf-8"))
    handler.initialize(
        SimpleNamespace(
            system_properties={"model_dir": str(unpacked)},
            manifest=manifest,
            model_name=manifest["model"]["modelName"],
            model_yaml_config=config,
        )
    )
    return handler


def check(archive: Path) -> None:
    """Let an archive prove itself in a clean process. ValueError with that process's last words if it cannot."""
    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(archive) as content:
            content.extractall(folder)
        command = [sys.executable, "-I", "-m", "scripts.archive", "--check-folder", folder]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ValueError(f"{archive.name} fails its check: {done.stderr.strip().splitlines()[-1]}")


def build(exported: Path, version: str, model_store: Path, force: bool = False) -> Path:
    """Write model_store/seefood-<version>.mar and return its path. ValueError if it exists already or fails its check."""
    target = model_store / archive_name(version)
    if target.exists() and not force:
        raise ValueError(f"{target} exists, and a version is never overwritten: choose another VERSION")
    model_store.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=model_store, prefix=".archive-") as work:
        part = Path(work) / target.name
        pack(stage(exported, version, Path(work)), part)
        check(part)
        part.replace(target)
    return target


def main() -> int:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("exported", type=Path, nargs="?", help="folder that training/export.py wrote")
    parser.add_argument("--version", help="three numbers, e.g. 1.0.0")
    parser.add_argument("--model-store", type=Path, default=Path("model_store"))
    parser.add_argument("--force", action="store_true", help="overwrite (for the starter, which is built from committed files)")
    parser.add_argument("--check-folder", type=Path, help="only check this unpacked archive, in this process")
    args = parser.parse_args()
    if args.check_folder:
        load_handler(args.check_folder)
        return 0
    if args.exported is None or args.version is None:
        parser.error("give the exported folder and --version")
    # SIGTERM as Ctrl-C: the half-made archive is removed on the way out
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    print(f"packing {args.exported} and checking it in a clean process ...", flush=True)
    try:
        target = build(args.exported, args.version, args.model_store, args.force)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: nothing was written", file=sys.stderr)
        return 1
    print(f"{target}: {target.stat().st_size / 1e6:.1f} MB, golden photos answered in a clean process. Next: make serve")
    return 0


if __name__ == "__main__":
    sys.exit(main())
