"""Memory and CPU that a photo at its format's limits takes to decode, beside the estimate: `make photo-costs`.

Writes the table of handler/README.md. The worst photos of each kind are made (costly_photos.py), flat ones as large as the limits
and the budget of handler/model-config.yaml allow, those of noise up to the limit on bytes, and each is decoded in a process of
its own. Exit status 1 if one takes more than its estimate.
"""

import argparse
import contextlib
import json
import math
import resource
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from handler.cost import MEGABYTE, Cost, estimate
from handler.decoders import Budget
from handler.errors import PhotoError
from handler.limits import MAX_BYTES, MAX_PIXELS, MAX_PIXELS_OF
from handler.photo_file import open_photo
from handler.preprocess import Spec, crop, decode, preprocess, reduction, resized_side
from scripts.bench.costly_photos import KINDS, saved
from scripts.command import parser, run
from scripts.paths import ROOT

SPEC = Spec((3, 224, 224), "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), 0.95, "center")
SAMPLE_SIDE = 700


class Measured(NamedTuple):
    """A photo of a kind, what it was estimated to take, and what it took."""

    kind: str
    noise: bool
    side: int
    photo_bytes: int
    estimated: Cost
    taken: Cost

    @property
    def row(self) -> str:
        """A line of the table."""
        texts = [f"{self.kind}, {'noise' if self.noise else 'flat'}", f"{self.side:,} x {self.side:,}", f"{self.photo_bytes:,}"]
        for cost in (self.taken, self.estimated):
            texts += [f"{cost.memory / MEGABYTE:.0f}", f"{cost.cpu_s:.2f}"]
        return f"| {' | '.join(texts)} |"


def estimated(photo_bytes: bytes) -> Cost:
    """What the decoder estimates."""
    image = open_photo(photo_bytes)
    return estimate(image, photo_bytes, reduction(image, resized_side(SPEC)))


def decode_here(path: Path) -> dict[str, Any]:
    """{"memory", "cpu_s"} of decoding the photo in this process, in bytes over what it had, and seconds."""
    warnings.simplefilter("ignore")
    preprocess(saved("JPEG")(300, False), SPEC)  # what is loaded once
    from pi_heif import HeifImageFile  # noqa: F401

    photo_bytes = path.read_bytes()
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from now on
    before, cpu_before = _status("VmRSS:"), _cpu_s()
    image = open_photo(photo_bytes)
    with contextlib.suppress(PhotoError):  # a BMP in too many runs: what refusing it takes counts
        crop(decode(image, reduction(image, resized_side(SPEC))), SPEC)
    return {"memory": _status("VmHWM:") - before, "cpu_s": _cpu_s() - cpu_before}


def _status(name: str) -> int:
    return int(Path("/proc/self/status").read_text().split(name)[1].split()[0]) * 1024


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def largest(kind: str, noise: bool, most: Cost) -> tuple[int, bytes]:
    """(side, bytes) of the largest photo of a kind that is within all limits and within `most`."""
    image_format, make = KINDS[kind]
    side = SAMPLE_SIDE
    for _ in range(3):  # bytes and costs grow a little faster or slower than pixels
        photo_bytes = make(side, noise)
        cost = estimated(photo_bytes)
        shares = [MAX_PIXELS_OF.get(image_format, MAX_PIXELS) / side**2, most.memory / cost.memory, most.cpu_s / cost.cpu_s]
        room = min(*shares, MAX_BYTES / len(photo_bytes))
        if 0.9 < room <= 1:
            break
        side = int(side * math.sqrt(room * 0.99))
    while not (within := estimated(photo_bytes := make(side, noise)).within(most)) or len(photo_bytes) > MAX_BYTES:
        side = int(side * (0.95 if within else 0.97))
    return side, photo_bytes


def measure(kind: str, noise: bool, most: Cost) -> Measured:
    """The largest photo of a kind, decoded in a process of its own; the least CPU of three times, as others may use the machine."""
    side, photo_bytes = largest(kind, noise, most)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "photo"
        path.write_bytes(photo_bytes)
        command = [sys.executable, "-m", "scripts.bench.photo_costs", "--decode", str(path)]
        done = [json.loads(subprocess.run(command, capture_output=True, check=True).stdout) for _ in range(3)]
    taken = Cost(max(one["memory"] for one in done), min(one["cpu_s"] for one in done))
    return Measured(kind, noise, side, len(photo_bytes), estimated(photo_bytes), taken)


def main() -> int:
    """Command line; see the module's docstring."""
    arguments = parser(__doc__)
    arguments.add_argument("--only", nargs="*", default=[], help="kinds that begin so, such as WebP")
    arguments.add_argument("--decode", type=Path, help=argparse.SUPPRESS)  # measure() calls it, in a process of its own
    args = arguments.parse_args()
    if args.decode:
        print(json.dumps(decode_here(args.decode)))
        return 0
    config = yaml.safe_load((ROOT / "handler" / "model-config.yaml").read_text(encoding="utf-8"))
    budget, status = Budget.from_config(config), 0
    print("| photo | pixels | bytes | MB taken | CPU s taken | MB estimated | CPU s estimated |\n|---|---|---|---|---|---|---|")
    for kind in [kind for kind in KINDS if not args.only or kind.startswith(tuple(args.only))]:
        for noise in (False, True):
            measured = measure(kind, noise, budget.photo(KINDS[kind][0]))
            over = not measured.taken.within(measured.estimated)
            print(measured.row + (" over its estimate" if over else ""), flush=True)
            status = 1 if over else status
    return status


if __name__ == "__main__":
    sys.exit(run(main))
