"""Where results go: a file, or an object on S3. They appear when they are whole, and replace those that were there."""

import os
import tempfile
from collections.abc import Callable
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path, PurePosixPath

from scripts.atomic import aside
from scripts.paths import ROOT
from scripts.predict.bucket import SCHEME, check_bucket, stored, upload
from scripts.predict.tables import FORMATS, Rows

PARTS = ROOT / "build" / "predict"  # of results on S3
HTML = "text/html; charset=utf-8"
# what a name may take: of a file less what `aside` adds to it; of a key, S3's limit
FILE_NAME_BYTES, KEY_BYTES = 255 - len(".4194304-01234567.part"), 1024


class Out:
    """The address of a table; its ending says which kind."""

    def __init__(self, address: str) -> None:
        """ValueError for any other ending or place, PredictError for a bucket that is not there."""
        self.address, self.on_s3 = address, address.startswith(SCHEME)
        self.suffix = PurePosixPath(address).suffix.lower()
        # with a slash at its end it would be the name of a folder
        if self.suffix not in FORMATS or not address.lower().endswith(self.suffix) or "://" in address.removeprefix(SCHEME):
            raise ValueError(f"OUT is {address}, expected a name that ends in {' or '.join(FORMATS)}, on this machine or at s3://")
        if self.suffix == ".parquet" and find_spec("pyarrow") is None:
            raise ValueError(f"OUT is {address}, and pyarrow is not installed: make .venv/installed-parquet")
        name, most = (stored(address).key, KEY_BYTES) if self.on_s3 else (Path(self.sheet).name, FILE_NAME_BYTES)
        if len(os.fsencode(name)) > most:
            raise ValueError(f"OUT is {address}, expected a name of at most {most} bytes, with .html at its end")
        if self.on_s3:
            check_bucket(address)
        elif Path(address).is_dir():
            raise ValueError(f"OUT is {address}, which is a folder: expected the name of a file")

    @property
    def part(self) -> Path:
        """Where the rows are until they are all there; its folder is made."""
        if self.on_s3:
            name = f"{PurePosixPath(self.address).name[-80:]}-{sha256(self.address.encode()).hexdigest()[:16]}"
            part = PARTS / f"{name}.part"
        else:
            part = Path(f"{self.address}.part")
        part.parent.mkdir(parents=True, exist_ok=True)
        return part

    @property
    def sheet(self) -> str:
        """The address of the contact sheet: beside the table."""
        return self.address[: -len(self.suffix)] + ".html"

    @property
    def results(self) -> tuple[str, ...]:
        """All that a run may write."""
        return self.address, self.sheet, str(self.part)

    def write(self, rows: Rows) -> None:
        """Write the table. OSError, PredictError, with what was there as it was."""
        write, content_type = FORMATS[self.suffix]
        put(self.address, lambda path: write(rows, path), content_type)


def put(address: str, write: Callable[[Path], None], content_type: str) -> None:
    """What `write` writes to a path appears at the address when it is whole. OSError, PredictError."""
    if not address.startswith(SCHEME):
        with aside(Path(address)) as part:
            write(part)
        return
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "results"
        write(file)
        upload(file, address, content_type)
