import contextlib
import fcntl
import functools
import io
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from PIL import Image
from xdist.scheduler import LoadFileScheduling

from handler.preprocess import Spec
from scripts.archive.build import build
from scripts.settings import PORT_NAMES
from tests.training.texts import write_texts
from training.data.pictures import draw, generate
from training.export.export import export
from training.loop import train
from training.model import Checkpoint
from training.params import Params

# a shell's background job ignores Ctrl-C, nohup a closed terminal, and so would all that the tests start
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"
# how long a test waits for a process or an event, on a machine however slow: what takes longer has hung
LIMIT_S = 900

needs_photos = pytest.mark.skipif(not (SHARED / "data").is_dir(), reason="the real photos of ../shared are not here")


@pytest.fixture(scope="session", autouse=True)
def nothing_is_sent():
    """Runs keep their records to themselves, unless a test names a store."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", "none")
        yield


@pytest.fixture(scope="session")
def spec() -> Spec:
    return Spec((3, 224, 224), "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), 0.95, "center")


def picture_bytes(
    index: int = 0, size: tuple[int, int] = (320, 240), image_format: str = "JPEG", mode: str = "RGB", **options
) -> bytes:
    buffer = io.BytesIO()
    draw(index, random.Random(index), size).convert(mode).save(buffer, image_format, **options)
    return buffer.getvalue()


def bytes_of(image: Image.Image, image_format: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


@pytest.fixture(scope="session")
def once(tmp_path_factory, request) -> Callable[[str, Callable[[Path], object]], Path]:
    """once(name, make): a folder that `make` has filled, for all processes of the tests together: the first makes it."""
    own = tmp_path_factory.getbasetemp()
    shared = (own.parent if hasattr(request.config, "workerinput") else own) / "once"
    shared.mkdir(exist_ok=True)

    def made(name: str, make: Callable[[Path], object]) -> Path:
        folder, done = shared / name, shared / f"{name}.done"
        with (shared / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not done.exists():
                shutil.rmtree(folder, ignore_errors=True)
                make(folder)
                done.touch()
        return folder

    return made


@pytest.fixture(scope="session")
def generated(once) -> Path:
    """Class folders of generated pictures, four classes."""
    return once("pictures", lambda folder: generate(folder, num_classes=4, per_class=30))


@pytest.fixture(scope="session")
def tiny_params() -> Params:
    """params.yaml, but a network that trains in seconds."""
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    values |= {"model": "test_efficientnet", "weights": "none", "spec": {"input_size": [3, 64, 64], "crop_pct": 0.9}}
    values |= {"train_size": 64, "epochs": 6, "global_batch_size": 16, "workers": 0, "lr": 0.003, "ema_decay": 0.8}
    values |= {"augment": "none", "mixup": 0.0, "cutmix": 0.0, "clip_norm": 0.0, "crop_scale_min": 0.6, "head_lr": 0.003}
    values |= {"precision": "float32", "val_fraction": 0.2}
    return Params(**values)


@pytest.fixture(scope="session")
def tiny_run(once, generated, tiny_params) -> Path:
    """Folder of a finished run on generated pictures, with checkpoint.pt."""
    return once("run", lambda folder: train("seefood", generated, tiny_params, folder))


@pytest.fixture(scope="session")
def exported(once, tiny_run) -> Path:
    """The tiny run, exported."""

    def make(folder: Path) -> None:
        export(Checkpoint.load(tiny_run / "checkpoint.pt"), folder / "1.0.0", format_name="openvino")

    return once("exported", make) / "1.0.0"


@pytest.fixture(scope="session")
def titled(once, generated) -> Path:
    """A list of the generated pictures with texts that name their classes."""
    return once("texts", lambda folder: write_texts(generated, folder / "list.csv")) / "list.csv"


@pytest.fixture(scope="session")
def text_run(once, titled, tiny_params) -> Path:
    """Folder of a finished run on generated pictures with texts."""
    params = tiny_params.model_copy(update={"epochs": 5, "text_lr": 0.1, "side_dropout": 0.6})
    return once("text-run", lambda folder: train("seefood", titled, params, folder))


@pytest.fixture(scope="session")
def text_exported(once, text_run) -> Path:
    """That run, exported."""

    def make(folder: Path) -> None:
        export(Checkpoint.load(text_run / "checkpoint.pt"), folder / "1.0.0", format_name="openvino")

    return once("text-exported", make) / "1.0.0"


@pytest.fixture(scope="session")
def packed(once, exported) -> Path:
    """A model store with the tiny run's archive, version 1.0.0. Shared by all processes: copy it before changing anything."""
    return once("packed", lambda folder: build(exported, "1.0.0", folder))


@pytest.fixture(scope="session")
def starter_server(tmp_path_factory):
    """The starter behind the door, which serves the page: one for all rooms."""
    from tests.serving.server import serving_starter

    with serving_starter(tmp_path_factory.mktemp("model_store")) as server:
        yield server


@pytest.fixture(scope="session")
def text_server(text_exported, tmp_path_factory):
    """A model that reads texts, served."""
    from tests.serving.server import Server

    store = tmp_path_factory.mktemp("store")
    build(text_exported, "1.0.0", store)
    server = Server(store, free_port()).wait_ready()
    yield server
    server.end()


@functools.cache  # asked for each test
def asks_starter_server(file: str) -> bool:
    """Whether tests of this file may ask it."""
    return file.startswith(("tests/door/", "tests/web/")) and "mark.server" in (ROOT / file).read_text(encoding="utf-8")


class Scheduling(LoadFileScheduling):  # type: ignore[misc]
    """A process gets the tests of a file together, and those of all files that ask starter_server: else each process starts one."""

    def _split_scope(self, nodeid: str) -> str:
        file: str = super()._split_scope(nodeid).partition("::")[0]
        return "starter_server" if asks_starter_server(file) else file

    def remove_node(self, node: Any) -> str | None:
        """The test under which a process ended, None if it has done its part. Others do the rest; xdist would repeat that test."""
        units = self.assigned_work[node]
        ended: str | None = next((test for unit in units.values() for test, done in unit.items() if not done), None)
        for unit in units.values():
            unit.pop(ended, None)
        for scope in [scope for scope, unit in units.items() if all(unit.values())]:
            del units[scope]  # a process that got it would wait for its end
        super().remove_node(node)
        return ended

    def _reschedule(self, node: Any) -> None:
        if node in self.registered_collections:  # one that has just been started has not found its tests yet
            super()._reschedule(node)
            if not (self.workqueue or node.shutting_down):
                node.shutdown()  # after the tests that it has: it waits with the last one until it knows what follows


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadFileScheduling | None:
    """That of `--dist loadfile`."""
    return Scheduling(config, log) if config.getvalue("dist") == "loadfile" else None


@pytest.fixture
def umask() -> Iterator[None]:
    """The usual one, and afterwards the one that was."""
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.fixture
def mount_disk() -> Iterator[Callable[[Path, str], Path]]:
    """Mount an empty disk of a size such as "512k" on a folder until the test ends. Skips where mounting is not allowed."""
    mounted: list[Path] = []

    def mount(folder: Path, size: str) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        command = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=0700", "tmpfs", str(folder)]
        if os.geteuid() != 0 or subprocess.run(command, check=False, capture_output=True).returncode != 0:
            pytest.skip("this machine does not let tests mount a disk")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", str(folder)], check=True)


WORKERS_MODULES: list[ModuleType] = []  # kept for good, as a worker keeps them: see handler.openvino_models.openvino_core


@contextlib.contextmanager
def modules_of_a_worker() -> Iterator[None]:
    """Inside, load_handler may import an archive's own modules; afterwards this process has its own again."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", sys.path.copy())
        before = {name: module for name, module in sys.modules.items() if name.split(".")[0] in ("handler", "training")}
        try:
            yield
        finally:  # an archive that is refused leaves its modules, too
            for name in [name for name in sys.modules if name.split(".")[0] in ("handler", "seefood_handler")]:
                WORKERS_MODULES.append(sys.modules.pop(name))
            sys.modules.update(before)


@pytest.fixture(autouse=True, scope="module")
def own_modules() -> Iterator[None]:
    """A file of tests that leaves another `handler` behind fails: which tests that breaks depends on the order of the files."""
    yield
    assert Path(str(sys.modules["handler"].__file__)).parent.parent == ROOT, "tests use modules_of_a_worker() around load_handler()"


def free_port() -> int:
    """A port that is free, as are those after it that a server takes: one for each of PORT_NAMES."""
    while True:
        # below the range from which the system gives ports to clients
        port = random.randrange(20000, 32000)
        try:
            for number in range(port, port + len(PORT_NAMES)):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", number))
        except OSError:
            continue
        return port
