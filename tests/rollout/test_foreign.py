"""Archives that are not ours, beside ours: served as they are, marked as unverified, of no weight for readiness and the page."""

import json

import httpx
import pytest

from scripts.archive.foreign import unpack_foreign
from scripts.archive.pack import pack
from scripts.command import run
from scripts.release.document import entry_of, make, parse, releases_of, write
from scripts.rollout.plan import Candidate, Options, plan_start
from scripts.rollout.rollout import main
from tests.conftest import ROOT, free_port, picture_bytes
from tests.rollout.rolling import QUICK, Instance, get, make_archives

HANDLER = """
from ts.torch_handler.base_handler import BaseHandler

class Echo(BaseHandler):
    def initialize(self, context):
        self.initialized = True

    def handle(self, requests, context):
        bodies = [request.get("body", request.get("data")) for request in requests]
        for i, body in enumerate(bodies):
            if body == {"refuse": True}:
                context.set_response_status(418, "no", i)
        return [{"kind": type(body).__name__, "length": len(body)} for body in bodies]
"""


def foreign(folder, name="echo-1.0.0.mar", **model):
    """An archive as torch-model-archiver makes one, with a version that is none of ours."""
    work = folder / f"work-{name}"
    (work / "MAR-INF").mkdir(parents=True)
    (work / "echo.py").write_text(HANDLER)
    model = {"modelName": "whatever", "modelVersion": "1.0", "handler": "echo.py", **model}
    manifest = {"createdOn": "01/01/2024 00:00:00", "runtime": "python", "model": model, "archiverVersion": "0.12.0"}
    (work / "MAR-INF" / "MANIFEST.json").write_text(json.dumps(manifest))
    pack(work, folder / name)
    return folder / name


def test_foreign_archive_is_unpacked_under_the_name_of_its_file_and_one_of_ours_is_refused(tmp_path):
    assert unpack_foreign(foreign(tmp_path), "echo-1.0.0.mar", tmp_path / "a") == ("echo", "1.0.0")
    manifest = json.loads((tmp_path / "a" / "MAR-INF" / "MANIFEST.json").read_text())
    assert (manifest["model"]["modelName"], manifest["model"]["modelVersion"]) == ("echo", "1.0.0")
    (tmp_path / "work-echo-1.0.0.mar" / "provenance.json").write_text("{}")
    pack(tmp_path / "work-echo-1.0.0.mar", tmp_path / "echo-2.0.0.mar")
    with pytest.raises(ValueError, match="was packed by make archive"):
        unpack_foreign(tmp_path / "echo-2.0.0.mar", "echo-2.0.0.mar", tmp_path / "b")
    (tmp_path / "work-echo-1.0.0.mar" / "MAR-INF" / "MANIFEST.json").unlink()
    (tmp_path / "work-echo-1.0.0.mar" / "provenance.json").unlink()
    pack(tmp_path / "work-echo-1.0.0.mar", tmp_path / "echo-3.0.0.mar")
    with pytest.raises(ValueError, match="is no archive of torch-model-archiver"):
        unpack_foreign(tmp_path / "echo-3.0.0.mar", "echo-3.0.0.mar", tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_what_is_not_verified_is_watched_without_being_compared(tmp_path):
    entry = entry_of(foreign(tmp_path), unverified=True)
    before = make({"1.0.0": entry}, "1.0.0", "released", "a test")
    assert parse(write(before)) == before
    new = Candidate(tmp_path, "echo", "1.1.0", {"archive": "echo-1.1.0.mar", "sha256": "0" * 64, "unverified": True})
    plan = plan_start("release.json", before, {"a"}, new, Options(unverified=True))
    assert [document["stage"] for document in plan.documents] == ["baking", "released"]
    assert plan.answers == "unjudged"
    assert not any("shadow" in document for document in plan.documents)
    for asked in (Options(canary=50), Options(photos=5)):
        with pytest.raises(ValueError, match=r"echo-1\.1\.0\.mar is not verified, so there is nothing to compare"):
            plan_start("release.json", before, {"a", "b"}, new, asked)


@pytest.mark.slow
@pytest.mark.server
def test_foreign_archive_is_served_beside_ours_and_marked(tmp_path, monkeypatch, capsys):
    make_archives(ROOT / "model_store" / "starter", tmp_path, ["1.0.0"])
    foreign(tmp_path)
    for name, value in QUICK.items():
        monkeypatch.setenv(name, value)

    def rollout(*arguments):
        store = ["--release", str(tmp_path / "release.json"), "--model-store", str(tmp_path)]
        monkeypatch.setattr("sys.argv", ["rollout", *store, *arguments])
        return run(main), *capsys.readouterr()

    assert rollout("start", "1.0.0", "--model", "seefood")[0] == 0
    with Instance(tmp_path / "release.json", free_port()).wait_ready() as instance:
        status, _, error = rollout("start", "1.0.0", "--model", "echo")
        assert status == 1
        assert "was not made by make archive" in error
        status, _, error = rollout("start", "1.0.0", "--model", "echo", "--unverified")
        assert status == 0, error
        assert releases_of(parse((tmp_path / "release.json").read_text()))["echo"]["versions"]["1.0.0"]["unverified"]
        url = f"http://127.0.0.1:{instance.port}"
        ready = {"ready": True, "version": "1.0.0"}
        assert get(instance.readyz)[1]["models"] == {"echo": {**ready, "unverified": True}, "seefood": ready}
        assert "1.0.0 (unverified)" in rollout("status")[1]
        # its requests are its own
        assert httpx.post(f"{url}/predictions/echo", json={"any": "thing"}).json() == {"kind": "dict", "length": 1}
        assert httpx.post(f"{url}/predictions/echo/1.0.0", content=b"12345").json()["length"] == 5
        refused = httpx.post(f"{url}/predictions/echo", json={"refuse": True})
        assert (refused.status_code, refused.json()["type"]) == (418, "RequestError")
        assert httpx.post(f"{url}/predictions/echo", content=bytes(21 * 1024 * 1024)).status_code == 413
        # and no other protocol's, nor the page's
        assert httpx.get(f"{url}/v1/models").json() == {"models": ["seefood"]}
        for path in ("/explanations/echo", "/v1/models/echo:predict"):
            assert httpx.post(f"{url}{path}", content=picture_bytes(1)).status_code == 404
        assert httpx.post(f"{url}/predictions/seefood", content=picture_bytes(1)).json()["model"] == "seefood"
        # without it all is as before
        status, _, error = rollout("withdraw", "--model", "echo")
        assert status == 0, error
        instance.wait_for(lambda: get(instance.readyz)[1] == ready)
