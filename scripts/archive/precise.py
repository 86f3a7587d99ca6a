"""The most precise of an archive's programs, for work whose answers are compared with others: no speed is measured for it."""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

from handler.choice import allowed
from handler.program import program_name, programs_of

FORMAT = "SEEFOOD_FORMAT"


@contextlib.contextmanager
def most_precise(unpacked: Path) -> Iterator[str]:
    """Handlers that are loaded meanwhile take this program of the unpacked archive; its name, e.g. "openvino/f32".

    Which one is the fastest depends on the machine and on what else it does, so that the same photo might be answered otherwise an
    hour later. Of the programs that SEEFOOD_FORMAT names it is the most precise. ValueError if it names none.
    """
    before = os.environ.get(FORMAT)
    programs = programs_of(json.loads((unpacked / "program.json").read_text(encoding="utf-8")))
    about = next(iter(allowed(programs, before or "").values()))
    name = os.environ[FORMAT] = program_name(about["format"], about["precision"])
    try:
        yield name
    finally:
        os.environ.pop(FORMAT)
        if before is not None:
            os.environ[FORMAT] = before
