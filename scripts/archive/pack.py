"""A folder -> an archive's bytes, whatever the folder holds."""

import zipfile
from pathlib import Path

# the oldest date that a zip entry can have
EPOCH = (1980, 1, 1, 0, 0, 0)


def pack(folder: Path, path: Path) -> None:
    """Zip a folder: entries sorted, dates and modes fixed, so that the same files give the same bytes."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(file for file in folder.rglob("*") if file.is_file()):
            entry = zipfile.ZipInfo(file.relative_to(folder).as_posix(), EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16  # Unix keeps the mode in the upper half
            archive.writestr(entry, file.read_bytes())  # archive.write() would take the file's own date
