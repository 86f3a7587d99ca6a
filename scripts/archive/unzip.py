"""An archive's members -> files in a folder, within limits that hold before memory or disk is spent on a claim.

The only place of this project that unpacks an archive. An archive is a zip: a few bytes of it may claim gigabytes, the same
name twice, or a place outside its folder. torch-model-archiver and pack.py write none of what is refused here.
"""

import errno
import io
import shutil
import stat
import unicodedata
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from scripts.errors import FullDiskError

# of an archive, and of what it unpacks to: the weights of the largest image classifiers have 5 GB
MAX_ARCHIVE_BYTES = MAX_UNPACKED_BYTES = 8 * 1024**3
# ours have some 25
MAX_MEMBERS = 1000
MAX_NAME_BYTES = 255
# zipfile reads the directory whole, and keeps half a kilobyte for each of its entries of 46 bytes and more
MAX_DIRECTORY_BYTES = 1024 * 1024
# unpacked over packed: weights shrink to half, JSON to a tenth; a small archive of much text may exceed it up to SMALL_BYTES
MAX_RATIO = 50
SMALL_BYTES = 64 * 1024**2

METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
CHUNK = 1024 * 1024


class _Bounded(io.BufferedReader):
    """A file of which no single read, zipfile's of the directory among them, takes much memory."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0:  # to the end, where zipfile looks for the directory's place
            size = MAX_DIRECTORY_BYTES
        if size > MAX_DIRECTORY_BYTES:
            raise zipfile.BadZipFile(f"its directory has over {MAX_DIRECTORY_BYTES:,} bytes")
        return super().read(size)


def extract(archive: Path, folder: Path) -> None:
    """Write an archive's members below `folder`, which is made.

    ValueError if the archive is damaged, or holds what none of ours does; OSError if the disk has no room for it.
    """
    try:
        with _Bounded(io.FileIO(archive)) as file, zipfile.ZipFile(file) as content:
            members = [member for member in content.infolist() if not member.is_dir()]
            _check(members, content.infolist(), archive.stat().st_size)
            folder.mkdir(parents=True, exist_ok=True)
            needed, free = sum(member.file_size for member in members), shutil.disk_usage(folder).free
            if needed > free:
                raise FullDiskError.lacking(folder, needed, free)
            for member in members:
                _write(content, member, folder / member.filename)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
        raise ValueError(f"{archive.name} is damaged: {error}") from error
    except OSError as error:
        if error.errno != errno.EINVAL:  # a position before the file's beginning; all others are the disk's
            raise
        raise ValueError(f"{archive.name} is damaged: {error}") from error
    except ValueError as error:
        raise ValueError(f"{archive.name} is refused: {error}") from error


def _check(members: list[zipfile.ZipInfo], entries: list[zipfile.ZipInfo], packed: int) -> None:
    """ValueError naming what an archive of ours never holds."""
    if len(entries) > MAX_MEMBERS:
        raise ValueError(f"it has {len(entries):,} members, at most {MAX_MEMBERS:,} are allowed")
    for entry in entries:
        _check_entry(entry)
    # as a file system that ignores case or composes accents would see them
    names = [unicodedata.normalize("NFC", member.filename).casefold() for member in members]
    twice = sorted({name for name in names if names.count(name) > 1})
    folders = {parent.as_posix() for name in names for parent in PurePosixPath(name).parents}
    if twice := twice or sorted(folders.intersection(names)):
        raise ValueError(f"it holds {twice[0]!r} twice")
    unpacked = sum(member.file_size for member in members)
    limit = min(MAX_UNPACKED_BYTES, max(SMALL_BYTES, MAX_RATIO * packed))
    if unpacked > limit:
        raise ValueError(f"its {packed:,} bytes unpack to {unpacked:,}, at most {limit:,} are allowed")


def _check_entry(entry: zipfile.ZipInfo) -> None:
    name = entry.orig_filename  # filename is cut off at a NUL
    parts = name.removesuffix("/").split("/")
    if len(name.encode()) > MAX_NAME_BYTES or "\\" in name or not name.isprintable() or {"", ".", ".."}.intersection(parts):
        raise ValueError(f"it holds {name[:MAX_NAME_BYTES]!r}, which is no path inside a folder")
    if ":" in parts[0]:
        raise ValueError(f"it holds {name!r}, which is no path inside a folder")
    # Python prefers a cache to its source, and no list of checksums names it
    if "__pycache__" in parts:
        raise ValueError(f"it holds {name!r}, Python's cache")
    kind = stat.S_IFMT(entry.external_attr >> 16)  # Unix keeps the mode in the upper half, others nothing
    if kind not in (0, stat.S_IFDIR if entry.is_dir() else stat.S_IFREG):
        raise ValueError(f"it holds {name!r}, a link or device")
    if entry.flag_bits & 1:
        raise ValueError(f"it holds {name!r}, which is encrypted")
    if entry.compress_type not in METHODS:
        raise ValueError(f"it holds {name!r}, compressed by method {entry.compress_type}, expected {METHODS[0]} or {METHODS[1]}")


def _write(content: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path) -> None:
    """Write a member; zipfile reads no more than the directory claims, and compares it with the checksum there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with content.open(member) as source, path.open("xb") as target:
        shutil.copyfileobj(source, target, CHUNK)
