"""What TorchServe's front end starts from: its jar, the patched classes before it, and Java's archive of all these classes.

Java takes most of its start to read and check some 4,000 classes. From an archive (class data sharing, CDS) it maps them as it
needs them, in half the CPU. class_data.py makes one: when an image is built, else after a server's first start, in the background.
All servers of a checkout share the files, in FOLDER of its `build`; an image has them beside TorchServe's jar. Each has a checksum,
which every start compares: what is damaged is left out, and made again. Java itself leaves out an archive of another build of Java
or another jar.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from handler.parts import sha256
from scripts.atomic import write_text
from scripts.backend.torchserve.frontend_patch import PATCHES, WRITTEN_AT, write_patched_jar
from scripts.backend.torchserve.native import jar
from scripts.paths import ROOT, own_folder

CONFIG = ROOT / "config.properties"
LOG_CONFIG = Path(__file__).resolve().parent / "log4j2.xml"
MAIN = "org.pytorch.serve.ModelServer"
FOLDER = "front-end"
PATCHED = "patched.jar"
CHECKSUM = ".sha256"  # ends the name of the file beside a file


def image_folder() -> Path:
    """Where an image has the files: beside the jar."""
    return jar().parent / FOLDER


def vm_args() -> list[str]:
    """Java's options in config.properties."""
    lines = CONFIG.read_text(encoding="utf-8").splitlines()
    return [word for line in lines if line.startswith("vmargs=") for word in line.removeprefix("vmargs=").split()]


class FrontEnd:
    """The front end on one Java."""

    def __init__(self, java_home: Path, base: Path | None = None) -> None:
        """Its files are in a folder of `base`; by default in that of the image, if it is for this jar, else in the user's own."""
        self.java = java_home / "bin" / "java"
        own = jar()
        # of what is not in these files, Java compares the jar's time and size, and its own build
        patches = [(name, found.pattern.hex(), replacement.hex()) for name, (found, replacement) in PATCHES.items()]
        key = _digits([str(own), own.stat().st_size, int(own.stat().st_mtime), patches, WRITTEN_AT])
        self.base = base or _base(key)
        self.folder = self.base / key if self.base else None
        self.archive: Path | None = None  # a Java of unknown version has none
        with contextlib.suppress(OSError):
            build = (java_home / "release").read_text(errors="replace")
            name = f"classes-{_digits([str(java_home.resolve()), build, vm_args()])}.jsa"
            self.archive = self.folder / name if self.folder else None

    @property
    def lacks_archive(self) -> bool:
        """Whether an archive of its classes could be made, and is not there, or damaged."""
        return self.archive is not None and not _is_whole(self.archive) and os.access(self.archive.parent, os.W_OK)

    def command(self, run_dir: Path, options: Iterable[str] = ()) -> list[str]:
        """Java with `options`, the class path and the class to run; a server's folder is used where no other can be written."""
        shared = [f"-XX:SharedArchiveFile={self.archive}"] if self.archive is not None and _is_whole(self.archive) else []
        home = f"-Dmodel_server_home={jar().parents[2]}"
        log = f"-Dlog4j.configurationFile=file://{LOG_CONFIG}"
        return [str(self.java), home, log, *vm_args(), *shared, *options, *self.class_path(run_dir), MAIN]

    def class_path(self, run_dir: Path) -> Sequence[str]:
        """-cp and its value; the jar of patched classes is written if it is not there."""
        return ["-cp", f"{self._patched(run_dir)}:{jar()}"]

    def _patched(self, run_dir: Path) -> Path:
        if self.folder is not None:
            path = self.folder / PATCHED
            if _is_whole(path):
                return path
            with contextlib.suppress(OSError):  # of a read-only file system, or a full one
                self.folder.mkdir(parents=True, exist_ok=True)
                write_patched_jar(path)
                note_checksum(path)
                return path
        write_patched_jar(run_dir / PATCHED)
        return run_dir / PATCHED

    def forget(self) -> None:
        """Remove the archive, so that it is made anew, if that may be done."""
        if self.archive is not None:
            with contextlib.suppress(OSError):
                self.archive.unlink(missing_ok=True)


def _base(key: str) -> Path | None:
    """The folder of folders by keys; None where there is none."""
    if (image_folder() / key).is_dir():
        return image_folder()
    with contextlib.suppress(OSError, RuntimeError):  # a user without a home
        return own_folder() / FOLDER
    return None


def _digits(content: object) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def note_checksum(path: Path) -> None:
    """Write a file's checksum beside it. OSError."""
    write_text(path.with_name(path.name + CHECKSUM), sha256(path))


def _is_whole(path: Path) -> bool:
    """Whether a file is there, and is the one whose checksum was noted."""
    try:
        return path.with_name(path.name + CHECKSUM).read_text(encoding="utf-8") == sha256(path)
    except (OSError, ValueError):
        return False
