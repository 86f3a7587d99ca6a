"""Large photos go to a worker as files, past TorchServe."""

import asyncio
import json
import os

import pytest

from scripts.backend.answer import Answer, BackendDownError, Question
from scripts.backend.torchserve.handed import LEAST_BYTES, handed, photo_folder
from scripts.backend.torchserve.inference import Inference
from scripts.door.state import State
from tests.door.without_server import predictions

LARGE = os.urandom(LEAST_BYTES)
LEFT = "0" * 32
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"


def asked(folder, question, answer=OK, full_disk=False):
    """(the backend's head and body, the file that was beside it then) of a question to a backend in `folder`."""
    seen = []

    async def serve(reader, writer):
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.split(b"content-length: ")[1].split(b"\r\n")[0])
        body = await reader.readexactly(length)
        files = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
        seen.append((head, body, files))
        writer.write(answer)
        writer.close()

    async def ask():
        server = await asyncio.start_unix_server(serve, folder / "inference")
        async with server:
            inference = Inference(f"unix:{folder / 'inference'}")
            if full_disk:
                inference._folder = folder / "none"
            return await inference.ask(question)

    try:
        assert asyncio.run(ask()).status == 200
    finally:
        assert [path.name for path in folder.iterdir() if path.is_file()] == []
    (once,) = seen
    return once


def test_large_photo_is_a_file_while_it_is_asked_about(tmp_path):
    (tmp_path / LEFT).write_bytes(b"of a door that was killed")
    head, body, files = asked(tmp_path, Question("a", "1.0.0", LARGE, {b"x-top-k": b"1"}, as_file=True))
    ((name, written),) = files.items()
    assert (body, written) == (b"", LARGE)
    assert f"\r\nx-photo-file: {name}\r\n".encode() in head
    assert b"\r\nx-top-k: 1\r\n" in head


@pytest.mark.parametrize(
    ("photo", "as_file", "full_disk"),
    [(LARGE, False, False), (LARGE[:-1], True, False), (LARGE, True, True)],
    ids=["older", "small", "full"],
)
def test_photo_is_sent_as_bytes_to_an_older_archive_if_it_is_small_or_the_disk_is_full(tmp_path, photo, as_file, full_disk):
    head, body, files = asked(tmp_path, Question("a", "1.0.0", photo, {}, as_file=as_file), full_disk=full_disk)
    assert (body, files) == (photo, {})
    assert b"x-photo-file" not in head


def test_file_is_gone_when_the_backend_gives_no_answer(tmp_path):
    with pytest.raises(BackendDownError):
        asked(tmp_path, Question("a", "1.0.0", LARGE, {}, as_file=True), answer=b"")


def test_no_room_is_no_file(tmp_path):
    with handed(tmp_path / "none", LARGE) as name:
        assert name == ""
    assert photo_folder("http://127.0.0.1:1") is None


@pytest.mark.parametrize(("described", "as_file"), [({"photo_files": True}, True), ({"photo_files": False}, False), ({}, False)])
def test_only_a_version_that_says_so_is_given_files(described, as_file):
    class Backend:
        async def ask(self, question):
            self.question = question
            return Answer(200, {}, b"{}")

    class Request:
        scope, held = {"headers": []}, 0

        def __init__(self):
            self.state = {"request_id": "id", "times": None}
            self.times = self

        def end_after(self, seconds):
            pass

        queued = asked = lambda self, *about: None

    backend = Backend()
    state = State(models={"a": {"default": "1.0.0", "versions": {"1.0.0": described}}})
    asyncio.run(predictions(state, backend).answer(Request(), "a", None, LARGE, None))
    assert backend.question.as_file is as_file


def test_photo_whose_file_the_worker_cannot_read_is_sent_as_bytes(tmp_path):
    error = json.dumps({"code": 503, "type": "HandedError", "message": "the photo's file cannot be read: No such file"}).encode()
    refusal = b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%b" % (len(error), error)
    bodies = []

    class Asked:
        def asked(self, *about):
            pass

        failed = asked

    async def serve(reader, writer):
        head = await reader.readuntil(b"\r\n\r\n")
        bodies.append(await reader.readexactly(int(head.split(b"content-length: ")[1].split(b"\r\n")[0])))
        writer.write(refusal if b"x-photo-file" in head else OK)
        writer.close()

    async def ask():
        async with await asyncio.start_unix_server(serve, tmp_path / "inference"):
            way = predictions(State(), Inference(f"unix:{tmp_path / 'inference'}"))
            return await way._ask(lambda: Question("a", "1.0.0", LARGE, {}, as_file=True), Asked(), None)

    assert asyncio.run(ask()).status == 200
    assert bodies == [b"", LARGE]
