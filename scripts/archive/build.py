"""Pack an exported model into a TorchServe archive: `python -m scripts.archive.build build/1.0.0 --version 1.0.0`.

Writes model_store/seefood-1.0.0.mar: the same inputs give the same bytes. Before it gets its name, the archive is
unpacked and answers its golden photos in a process that sees only its content and the installed packages. What it is made
of and where it comes from stands in it, in provenance.json, and beside it; `--inspect seefood-1.0.0.mar` checks and shows it.
"""

import argparse
import errno
import importlib
import json
import lzma
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import zipfile
import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import yaml

from handler.parts import PROVENANCE, check_parts, checksums, sha256
from scripts.atomic import write_json
from scripts.paths import ROOT

MODEL = "seefood"
HANDLER_DIR = ROOT / "handler"
EXPORTED = ("program.json", "spec.json", "index_to_name.json", "golden.json")
MANIFEST = Path("MAR-INF/MANIFEST.json")
# semver.org, 2.0.0, without build metadata: a "+" in a path means a space to some clients
VERSION = (
    r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-(0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*)(\.(0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*))*)?"
)
# the oldest date that a zip entry can have
EPOCH = (1980, 1, 1, 0, 0, 0)


def archive_name(version: str) -> str:
    """File name of a version's archive. ValueError unless it is a semantic version."""
    if not re.fullmatch(VERSION, version):
        raise ValueError(f"version is {version!r}, expected a semantic version such as 1.0.0 or 1.1.0-rc.1")
    return f"{MODEL}-{version}.mar"


def archive_version(path: Path) -> str:
    """1.0.0 of seefood-1.0.0.mar."""
    return path.name.removeprefix(f"{MODEL}-").removesuffix(".mar")


def precedence(version: str) -> tuple[Any, ...]:
    """What semantic versions sort by: 1.1.0-rc.2 comes before 1.1.0-rc.10, and that before 1.1.0 (semver.org, 11)."""
    core, _, pre = version.partition("-")
    fields = [(0, int(field), "") if field.isdigit() else (1, 0, field) for field in pre.split(".") if pre]
    return tuple(int(number) for number in core.split(".")), not pre, fields


def find_archives(model_store: Path) -> list[Path]:
    """All archives with a proper name, oldest version first."""
    found = [path for path in model_store.glob(f"{MODEL}-*.mar") if re.fullmatch(VERSION, archive_version(path))]
    return sorted(found, key=lambda path: precedence(archive_version(path)))


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
    write_json(work / MODEL / PROVENANCE, provenance_of(work / MODEL, version))
    return work / MODEL


def provenance_of(folder: Path, version: str) -> dict[str, Any]:
    """Where a staged archive comes from, and the checksum of each part."""
    program = json.loads((folder / "program.json").read_text(encoding="utf-8"))
    return {
        "model": MODEL,
        "version": version,
        "format": program["format"],
        "precisions": program["precisions"],
        "accuracy": program["accuracy"],
        "training": program["provenance"],
        "parts": checksums(folder),
    }


def unpack(archive: Path, folder: Path) -> dict[str, Any]:
    """Unpack an archive into `folder`, which appears only when all parts are right, and return its provenance.

    ValueError naming what is wrong with the archive.
    """
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        try:
            with zipfile.ZipFile(archive) as content:
                content.extractall(part)
        except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError) as error:
            raise ValueError(f"{archive.name} is damaged: {error}") from error
        except OSError as error:
            if error.errno not in (None, errno.EINVAL):  # bz2's, and a place before the file's beginning; else it is the disk
                raise
            raise ValueError(f"{archive.name} is damaged: {error}") from error
        try:
            provenance = check_parts(part)
        except ValueError as error:
            raise ValueError(f"{archive.name}: {error}") from error
        shutil.rmtree(folder, ignore_errors=True)
        part.replace(folder)
        return provenance
    finally:
        shutil.rmtree(part, ignore_errors=True)


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
        command = [sys.executable, "-I", "-m", "scripts.archive.build", "--check-folder", folder]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ValueError(f"{archive.name} fails its check: {done.stderr.strip().splitlines()[-1]}")


def build(exported: Path, version: str, model_store: Path, force: bool = False) -> Path:
    """Write model_store/seefood-<version>.mar and its .json, and return its path. ValueError if it is there or fails its check."""
    target = model_store / archive_name(version)
    if target.exists() and not force:
        raise ValueError(f"{target} exists, and a version is never overwritten: choose another VERSION")
    model_store.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=model_store, prefix=".archive-") as work:
        part, staged = Path(work) / target.name, stage(exported, version, Path(work))
        pack(staged, part)
        check(part)
        provenance = json.loads((staged / PROVENANCE).read_text(encoding="utf-8"))
        facts = {"archive": target.name, "sha256": sha256(part), "bytes": part.stat().st_size}
        write_json(target.with_suffix(".json"), facts | provenance)
        part.replace(target)
    return target


def inspect(archive: Path) -> dict[str, Any]:
    """The archive's checksum, size and provenance, all parts checked. ValueError naming what is wrong with it."""
    if not archive.is_file():
        raise ValueError(f"there is no archive {archive}")
    with tempfile.TemporaryDirectory() as folder:
        provenance = unpack(archive, Path(folder) / "archive")
    return {"archive": archive.name, "sha256": sha256(archive), "bytes": archive.stat().st_size, **provenance}


def main() -> int:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("exported", type=Path, nargs="?", help="folder that training/export/export.py wrote")
    parser.add_argument("--version", help="e.g. 1.0.0 or 1.1.0-rc.1: semver.org")
    parser.add_argument("--model-store", type=Path, default=Path("model_store"))
    parser.add_argument("--force", action="store_true", help="overwrite (for the starter, which is built from committed files)")
    parser.add_argument("--check-folder", type=Path, help="only check this unpacked archive, in this process")
    parser.add_argument("--inspect", type=Path, help="only check this archive's parts, and show where it comes from")
    args = parser.parse_args()
    if args.check_folder:
        load_handler(args.check_folder)
        return 0
    if args.inspect:
        try:
            print(json.dumps(inspect(args.inspect), indent=2))
        except ValueError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
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
    print(
        f"{target}: {target.stat().st_size / 1e6:.1f} MB, golden photos answered in a clean process. Next: make serve,\n"
        f"or make rollout VERSION={args.version} where a server runs"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
