"""`make smoke`: a server that answers its golden photos correctly passes, any other fails with its reason."""

import contextlib
import datetime
import http.server
import ipaddress
import json
import os
import re
import ssl
import subprocess
import sys
import threading

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from scripts.archive.name import choose_archive
from scripts.archive.read import unpack
from scripts.backend.torchserve.versions import read_golden
from scripts.release.document import make, write
from scripts.release.folder_store import FolderStore
from tests.conftest import LIMIT_S, ROOT, free_port
from tests.rollout.rolling import QUICK, Instance, release, reversion

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    """The starter, under two versions."""
    folder, starter = tmp_path_factory.mktemp("archives"), choose_archive(ROOT / "model_store", None)
    return {version: reversion(starter, version, folder) for version in ("1.0.0", "1.1.0")}


@pytest.fixture(scope="module")
def golden(archives, tmp_path_factory):
    folder = tmp_path_factory.mktemp("golden") / "archive"
    unpack(archives["1.0.0"], folder)
    return read_golden(folder)


@pytest.fixture
def store(archives, tmp_path):
    """Releases 1.0.0."""
    store = FolderStore(tmp_path / "release.json")
    for archive in archives.values():
        store.put(archive)
    release(store, {"1.0.0": archives["1.0.0"]}, "1.0.0")
    return store


class Service(http.server.ThreadingHTTPServer):
    """Answers golden photos as the release has them; `refusals` first ones with 503. Notes each (path, headers)."""

    daemon_threads = True

    def __init__(self, golden, version="1.0.0", refusals=0, off=0.0):
        self.golden, self.version, self.refusals, self.off, self.seen = golden, version, refusals, off, []
        super().__init__(("127.0.0.1", 0), Answer)

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"


class Answer(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        service = self.server
        photo = self.rfile.read(int(self.headers["content-length"]))
        service.seen.append((self.path, dict(self.headers)))
        if len(service.seen) <= service.refusals:
            self.send_error(503, "starting")
            return
        named = re.sub("^/predictions/(seefood|flowers)/?", "", self.path)
        expected = next(iter(service.golden.expected.values()))
        probabilities = expected.probabilities[service.golden.photos.index(photo)]
        predictions = [{"label": "x", "index": i, "probability": one + service.off} for i, one in enumerate(probabilities)]
        body = json.dumps({"predictions": predictions, "version": named or service.version}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@contextlib.contextmanager
def serving(service):
    threading.Thread(target=service.serve_forever, daemon=True).start()
    try:
        yield service
    finally:
        service.shutdown()
        service.server_close()


def smoke(url, store, *arguments, **environment):
    """(exit status, all that it printed)."""
    command = [sys.executable, "-m", "scripts.rollout.smoke", url, "--release", store.address, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False, env=os.environ | environment)
    return done.returncode, done.stdout + done.stderr


def test_correct_answers_pass_as_any_clients_do(golden, store):
    with serving(Service(golden)) as service:
        status, output = smoke(service.url + "/", store)
    assert status == 0, output
    assert f"answers {len(golden.names)} golden photos of 1.0.0 correctly" in output
    assert [path for path, _ in service.seen] == ["/predictions/seefood"] * len(golden.names)
    assert not any("x-probe" in headers for _, headers in service.seen)  # it has no token of the server's


def test_a_model_of_another_name_is_asked_at_its_own_path(golden, store, archives, tmp_path):
    flowers = reversion(archives["1.0.0"], "1.0.0", tmp_path / "flowers", model="flowers")
    store = FolderStore(flowers.parent / "release.json")
    release(store, {"1.0.0": flowers}, "1.0.0")
    with serving(Service(golden)) as service:
        status, output = smoke(service.url, store)
    assert status == 0, output
    assert {path for path, _ in service.seen} == {"/predictions/flowers"}


def test_a_service_that_starts_is_waited_for(golden, store):
    with serving(Service(golden, refusals=2)) as service:
        status, output = smoke(service.url, store, "--wait", "60")
    assert status == 0, output
    assert len(service.seen) == len(golden.names) + 2


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ({"version": "0.9.0"}, "is answered by version 0.9.0, not 1.0.0"),
        ({"off": 0.2}, "answered incorrectly: probability off by 0.2"),
        ({"refusals": 1000}, "got status 503"),
    ],
)
def test_a_service_that_answers_otherwise_fails_with_the_reason(golden, store, fault, reason):
    with serving(Service(golden, **fault)) as service:
        status, output = smoke(service.url, store, "--wait", "1")
    assert status == 1
    assert reason in output
    assert "Traceback" not in output


def test_a_service_that_answered_once_must_answer_on(golden, store):
    class Tired(Service):
        @property
        def refusals(self):
            return 1000 if len(self.seen) == 2 else 0

        @refusals.setter
        def refusals(self, value):
            pass

    with serving(Tired(golden)) as service:
        status, output = smoke(service.url, store, "--wait", "60")
    assert status == 1
    assert f"{golden.names[1]!r} got status 503" in output
    assert len(service.seen) == 2


def test_while_a_canary_is_out_each_version_is_asked_under_its_number(golden, store, archives):
    release(store, archives, "1.0.0", "canary", canary={"version": "1.1.0", "percent": 50})
    with serving(Service(golden)) as service:
        status, output = smoke(service.url, store)
    assert status == 0, output
    assert {path for path, _ in service.seen} == {"/predictions/seefood/1.0.0", "/predictions/seefood/1.1.0"}
    assert "golden photos of 1.0.0 and 1.1.0 correctly" in output


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://food.example.com", "expected the server's address, e.g. https://"),
        ("food.example.com", "expected the server's address"),
        ("https://food.example.com/predictions/seefood", "expected the server's address"),
        ("https://127.0.0.1:9", "got no answer"),
    ],
)
def test_an_address_that_cannot_be_asked_is_named(store, url, reason):
    status, output = smoke(url, store, "--wait", "0")
    assert status == 1
    assert url in output
    assert reason in output


def test_a_release_that_is_not_there_and_an_archive_that_was_changed_are_named(golden, store, archives, tmp_path):
    with serving(Service(golden)) as service:
        nowhere = smoke(service.url, FolderStore(tmp_path / "none" / "release.json"))
        entry = {"archive": archives["1.0.0"].name, "sha256": "0" * 64}
        store.write(write(make({"1.0.0": entry}, "1.0.0", "released", "a test")), store.read()[1])
        changed = smoke(service.url, store)
    assert (nowhere[0], changed[0]) == (1, 1)
    assert "there is no release document" in nowhere[1]
    assert "does not match the release document's 000000000000" in changed[1]
    assert not service.seen


def certificate(folder):
    """A self-signed one for this machine, with its key: one file."""
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now, day = datetime.datetime.now(datetime.UTC), datetime.timedelta(days=1)
    signed = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now - day, now + day)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    plain = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path = folder / "certificate.pem"
    path.write_bytes(signed.public_bytes(serialization.Encoding.PEM) + key.private_bytes(*plain))
    return path


def test_https_is_asked_and_a_certificate_that_nobody_trusts_fails(golden, store, tmp_path):
    service, path = Service(golden), certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    service.socket = context.wrap_socket(service.socket, server_side=True, do_handshake_on_connect=False)
    url = service.url.replace("http", "https")
    with serving(service):
        trusted = smoke(url, store, "--wait", "5", SSL_CERT_FILE=str(path))
        strange = smoke(url, store, "--wait", "0")
    assert trusted[0] == 0, trusted[1]
    assert strange[0] == 1
    assert "certificate verify failed" in strange[1].lower()


@pytest.mark.server
@pytest.mark.slow
def test_a_real_server_passes(archives, store, monkeypatch):
    for name, value in QUICK.items():
        monkeypatch.setenv(name, value)
    with Instance(store.address, free_port()) as instance:
        instance.wait_ready()
        status, output = smoke(f"http://127.0.0.1:{instance.port}", store)
        assert status == 0, output
        document = release(store, archives, "1.0.0", "canary", canary={"version": "1.1.0", "percent": 50})
        instance.wait_state("reconciled", document)
        status, output = smoke(f"http://127.0.0.1:{instance.port}", store)
    assert status == 0, output
    assert "1.0.0 and 1.1.0" in output
