"""Java's archive of the front end's classes (front_end.py): `python -m scripts.backend.torchserve.class_data`.

A TorchServe is started for it, has a model without content loaded and asked once, and ends: what it loaded meanwhile is the list of
classes. Java writes the archive from that list, in some 4 s of CPU in all. One process at a time does so.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from handler.locks import alone
from scripts.atomic import aside
from scripts.backend.torchserve import management
from scripts.backend.torchserve.environment import java_home, passed_on
from scripts.backend.torchserve.front_end import CHECKSUM, FrontEnd, image_folder, note_checksum, vm_args
from scripts.backend.torchserve.process import PRIVATE_UMASK, ServeError, TorchServe, make_private
from scripts.backend.torchserve.sockets import choose_addresses
from scripts.command import parser, run
from scripts.settings import Settings

MODEL = "warm"
HANDLER = """
class Handler:
    def initialize(self, context):
        pass

    def handle(self, requests, context):
        return [b"{}"] * len(requests)
"""
MANIFEST = {"model": {"modelName": MODEL, "modelVersion": "1.0.0", "handler": "warm.py", "configFile": "model-config.yaml"}}
POLL_S = 0.1
LIMIT_S = 600.0  # of each step: beside other work it may have little of the CPU


def make(front_end: FrontEnd) -> Path:
    """Write the archive of a front end's classes; its path.

    ServeError if TorchServe or Java fails; OSError on a full disk, TimeoutError if another process is making it.
    """
    if front_end.archive is None:
        raise ServeError(f"{front_end.java} is of no known version, and no archive of its classes is made")
    front_end.archive.parent.mkdir(parents=True, exist_ok=True)
    with alone(front_end.archive.parent, 0), tempfile.TemporaryDirectory(prefix="seefood-") as folder:
        loaded = Path(folder) / "classes.lst"
        class_path = front_end.class_path(Path(folder))
        _note_classes(Path(folder) / "run", loaded)
        with aside(front_end.archive) as part:
            command = [str(front_end.java), *vm_args(), "-Xshare:dump", f"-XX:SharedClassListFile={loaded}"]
            command += [f"-XX:SharedArchiveFile={part}", *class_path]
            done = subprocess.run(command, env=passed_on({}), capture_output=True, text=True, timeout=LIMIT_S, check=False)
            if done.returncode or not part.is_file():
                raise ServeError(f"Java wrote no archive of classes:\n{(done.stdout + done.stderr)[-2000:]}")
        note_checksum(front_end.archive)
    for old in front_end.archive.parent.glob("classes-*.jsa"):
        if old != front_end.archive:  # of another Java
            old.unlink(missing_ok=True)
            old.with_name(old.name + CHECKSUM).unlink(missing_ok=True)
    return front_end.archive


def _note_classes(run_dir: Path, into: Path) -> None:
    """Have a TorchServe write the list of classes that it loads until it has answered a request."""
    umask = os.umask(PRIVATE_UMASK)
    make_private(run_dir)
    model = run_dir / "unpacked" / MODEL
    (model / "MAR-INF").mkdir(parents=True)
    (model / "MAR-INF" / "MANIFEST.json").write_text(json.dumps(MANIFEST))
    (model / "model-config.yaml").write_text(f"minWorkers: 1\nmaxWorkers: 1\nbatchSize: 1\nstartupTimeout: {LIMIT_S:.0f}\n")
    (model / "program.json").write_text('{"format": "openvino"}')  # no torch: without_torch/
    (model / "warm.py").write_text(HANDLER)
    settings = Settings(min_free_bytes=0, start_timeout_s=LIMIT_S, load_timeout_s=LIMIT_S)
    torchserve = TorchServe(run_dir, choose_addresses(run_dir), settings, [f"-XX:DumpLoadedClassList={into}"])
    try:
        torchserve.wait_until_up()
        management.register(torchserve.server, MODEL, MODEL)
        deadline = time.monotonic() + settings.load_timeout_s
        while not torchserve.server.predict(MODEL, b"x", 1, settings.golden_timeout_s).is_success:
            if time.monotonic() > deadline:
                raise ServeError(f"TorchServe answered nothing:\n{torchserve.last_log_lines()}")
            time.sleep(POLL_S)
        torchserve.stop()  # in order: Java writes the end of the list then
    finally:
        torchserve.stop(now=True)
        os.umask(umask)  # the archive of an image is for all


def main() -> None:
    """Command line; see the module's docstring."""
    options = parser(__doc__)
    where = options.add_mutually_exclusive_group()
    where.add_argument("--image", action="store_true", help="beside TorchServe's jar, as an image has it")
    where.add_argument("--base", type=Path, help="in a folder of this one")
    options.add_argument("--nice", action="store_true", help="with the lowest priority: beside a server")
    args = options.parse_args()
    if args.nice:
        os.nice(19)
    print(make(FrontEnd(java_home(), image_folder() if args.image else args.base)))


if __name__ == "__main__":
    sys.exit(run(main))
