"""What the tests of rollouts share: archives of many versions made from one, a server's status, and load that notes each answer."""

import http.client
import json
import threading
import time
import zipfile
from pathlib import Path

import httpx

from handler.parts import PROVENANCE
from scripts.archive.build import build, provenance_of
from scripts.archive.name import archive_name
from scripts.archive.pack import pack as pack_folder
from scripts.archive.read import unpack
from scripts.atomic import write_json
from scripts.release.address import open_store
from scripts.release.document import entry_of, fingerprint, make, parse, write
from tests.conftest import LIMIT_S, picture_bytes
from tests.serving.server import Server
from tests.waiting import until

# short intervals, so that tests need not wait
QUICK = {
    "SEEFOOD_POLL_S": "0.2",
    "SEEFOOD_SETTLE_S": "0.3",
    "SEEFOOD_HEARTBEAT_S": "0.5",
    "SEEFOOD_STALE_S": "8",
    "SEEFOOD_CHECK_S": "0.5",
    "SEEFOOD_LOOK_S": "0.2",
    "SEEFOOD_CHECK_TIMEOUT_S": "1",
    "SEEFOOD_RESTART_WAIT_S": "0.2",
    "SEEFOOD_BAKE_S": "1",
    "SEEFOOD_WORSE_P99_S": "5",  # what else runs on the machine slows one version or the other
}

# what is wrong with a version: text of the handler, and what comes in its place
FAULTS = {
    "raises": ("        check_parts(model_dir)\n", "        raise ValueError('no such luck')\n"),
    "hangs": ("        check_parts(model_dir)\n", "        time.sleep(1000)\n"),
    "answers wrong": ('"probability": float(row[i])', '"probability": float(row[i]) ** 2'),
    "fails after a while": (
        "        self.metrics.batch(len(requests))\n",
        "        self.batches = getattr(self, 'batches', 0) + 1\n        1 / (self.batches < 20 or self.batches % 3)\n",
    ),
    "hangs after a while": (
        "        self.metrics.batch(len(requests))\n",
        "        self.batches = getattr(self, 'batches', 0) + 1\n        time.sleep(0 if self.batches < 12 else 25)\n",
    ),
    "is slow": ("        self.metrics.batch(len(requests))\n", "        time.sleep(0.3)\n"),
    "is very slow": ("        self.metrics.batch(len(requests))\n", "        time.sleep(1)\n"),
}


def reversion(archive: Path, version: str, folder: Path, fault: str | None = None, model: str = "seefood") -> Path:
    """The archive as another version, with a fault in its handler if one is named; its checksums are correct."""
    work = folder / f"work-{version}"
    unpack(archive, work)
    manifest = work / "MAR-INF/MANIFEST.json"
    content = json.loads(manifest.read_text())
    content["model"] |= {"modelName": model, "modelVersion": version}
    manifest.write_text(json.dumps(content))
    if fault:
        handler = work / "seefood_handler.py"
        text, faulty = FAULTS[fault]
        assert handler.read_text().count(text) == 1
        handler.write_text(handler.read_text().replace(text, faulty))
    (work / PROVENANCE).unlink()
    write_json(work / PROVENANCE, provenance_of(work))
    target = folder / archive_name(model, version)
    pack_folder(work, target)
    return target


def make_archives(exported: Path, folder: Path, versions: list[str]) -> dict[str, Path]:
    """Archives of these versions, which differ in nothing else."""
    first, *others = versions
    archive = build(exported, first, folder)
    return {first: archive} | {version: reversion(archive, version, folder) for version in others}


def get(url: str):
    """(status, JSON) of a GET, (0, {}) without an answer."""
    try:
        response = httpx.get(url, timeout=5)
        return response.status_code, response.json()
    except (httpx.HTTPError, ValueError):
        return 0, {}


class Instance(Server):
    """A server that follows a release document."""

    def __init__(self, release, port, name=None):
        self.release, self.name = str(release), name or f"test-{port}"
        super().__init__("model_store", port, "--release", self.release, "--instance", self.name)

    def __enter__(self):
        return self

    def __exit__(self, *args):
        if self.process.poll() is None:
            self.end()
        self.process.wait()

    def wait_ready(self):
        self.wait_for(lambda: self.ready)
        return self

    def wait_for(self, condition):
        return until(condition, lambda: f"{self.output}\n{self.status()}", self.process)

    @property
    def ready(self):
        return get(self.readyz)[0] == 200

    def status(self):
        """Its status beside the release document, None if there is none."""
        return next((status for _, status in open_store(self.release).statuses() if status["instance"] == self.name), None)

    def wait_state(self, state, document=None):
        """Its status once it reports that state, for this document."""

        def reached():
            status = self.status()
            wanted = fingerprint(document) if document else None
            return status if status and status["state"] == state and wanted in (None, status["release"]) else None

        return self.wait_for(reached)

    def registered(self):
        """The versions that TorchServe has loaded."""
        return sorted(model["modelVersion"] for model in httpx.get(f"{self.management}/seefood/all").json())


def release(store, versions, default, stage="released", **parts):
    """Write a document that names these {version: archive}, unwatched; the document."""
    document = make({version: entry_of(path) for version, path in versions.items()}, default, stage, "a test", **parts)
    put(store, write(document))
    return document


def put(store, text):
    """Write this text as the document, whatever was there."""
    try:
        tag = store.read()[1]
    except FileNotFoundError:
        tag = None
    store.write(text, tag)


def alike(document):
    """What an instance reports of two versions that answer a golden photo alike; None if nobody asks."""
    if "shadow" not in document:
        return None
    versions = [document["shadow"]["version"], document["default"]][:: 1 if document["stage"] == "baking" else -1]
    row = [0, 0.8, True]
    report = {"versions": versions, "labels": ["pho"], "only": [[], []], "golden": [[row, row]], "captured": []}
    report |= {"photos": 0, "agreed": 0, "changes": [], "refused": dict.fromkeys(versions, 0)}
    return report | {"release": fingerprint(document), "median_ms": dict.fromkeys(versions)}


def report(store, *instances, state="reconciled", why="", **parts):
    """Let these instances report this state for the present document."""
    document = parse(store.read()[0])
    for instance in instances:
        status = {"instance": instance, "state": state, "since": time.time(), "why": why, "release": fingerprint(document)}
        status |= {"default": document["default"], "versions": sorted(document["versions"]), "ready": True}
        status |= {"shadow": alike(document), "figures": {}, "worker_restarts": {}}
        store.write_status(instance, status | parts)


def truncate(path: Path) -> None:
    """Cut a file's last third off."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])


def flip_a_byte(archive: Path, part: str) -> None:
    """Change a byte of one part, uncompressed, with everything else in order."""
    with zipfile.ZipFile(archive) as source:
        contents = {info.filename: source.read(info) for info in source.infolist()}
    changed = bytearray(contents[part])
    changed[len(changed) // 2] ^= 1
    contents[part] = bytes(changed)
    with zipfile.ZipFile(archive, "w") as target:
        for name, content in contents.items():
            target.writestr(name, content)


class Load:
    """Clients that each send one request after the other until `stop()`, and note each answer: (begun, ended, status, version)."""

    def __init__(self, port: int, clients: int, photos=None, path="/predictions/seefood"):
        self.port, self.path, self.over = port, path, threading.Event()
        self.answers: list[tuple[float, float, int, object]] = []
        self.photos = photos or [picture_bytes(i, (300 + 20 * i, 300)) for i in range(8)]
        self.threads = [threading.Thread(target=self._ask, args=(i,), daemon=True) for i in range(clients)]
        for thread in self.threads:
            thread.start()

    def _ask(self, number):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=LIMIT_S)
        while not self.over.is_set():
            number += 1
            begun = time.monotonic()
            try:
                connection.request("POST", self.path, self.photos[number % len(self.photos)])
                response = connection.getresponse()
                body = response.read()
                status, version = response.status, json.loads(body)["version"] if response.status == 200 else body[:200]
            except (OSError, http.client.HTTPException, ValueError) as error:
                connection.close()
                status, version = 0, repr(error)
                time.sleep(0.05)
            self.answers.append((begun, time.monotonic(), status, version))
        connection.close()

    def stop(self):
        """All answers; none is under way any more."""
        self.over.set()
        for thread in self.threads:
            thread.join(LIMIT_S)
            assert not thread.is_alive(), "a request hangs"
        return self.answers

    @property
    def failed(self):
        return [answer for answer in self.answers if answer[2] != 200]


def p99_ms(answers):
    """The 99th percentile of the answers' times."""
    times = sorted(1000 * (ended - begun) for begun, ended, *_ in answers)
    return times[int(0.99 * len(times))]
