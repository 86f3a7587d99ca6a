"""`make audit` against a stand-in for OSV: what it asks for, what it accepts, and how it ends."""

import contextlib
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest

from scripts.audit import vulnerabilities
from scripts.audit.vulnerabilities import ACCEPTED, main, purls, read_accepted
from scripts.command import run
from tests.conftest import ROOT

# of each purl, the ids on its pages
KNOWN = {"pkg:pypi/pillow@1.0": [["GHSA-1"], ["GHSA-2"]], "pkg:maven/io.netty/netty-codec@4.1": [["GHSA-3"]]}


class Osv(BaseHTTPRequestHandler):
    """As https://google.github.io/osv.dev/api describes it."""

    asked: ClassVar[list[str]] = []
    status = 200

    def log_message(self, *args):
        """Nothing."""

    def send(self, content):
        body = json.dumps(content).encode()
        self.send_response(self.status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self):
        queries = json.loads(self.rfile.read(int(self.headers["content-length"])))["queries"]
        results = []
        for query in queries:
            purl, page = query["package"]["purl"], int(query.get("page_token", 0))
            self.asked.append(purl)
            pages = KNOWN.get(purl, [[]])
            more = {"next_page_token": str(page + 1)} if page + 1 < len(pages) else {}
            results.append({"vulns": [{"id": name} for name in pages[page]], **more} if pages[page] else {})
        self.send({"results": results})

    def do_GET(self):
        name = self.path.rpartition("/")[2]
        self.send({"id": name, "aliases": [name.replace("GHSA", "CVE")], "summary": f"what {name} is"})


@contextlib.contextmanager
def serving(status=200):
    handler = type("Osv", (Osv,), {"asked": [], "status": status})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", handler.asked
        server.shutdown()


@pytest.fixture
def audit(tmp_path, monkeypatch, capsys):
    """audit(url, *purls, accepted=[...]): exit status and output for an SBOM of these."""

    def run_it(url, *listed, accepted=()):
        (tmp_path / "accepted.json").write_text(json.dumps(list(accepted)))
        sbom = {"bomFormat": "CycloneDX", "components": [{"name": purl, "purl": purl} for purl in listed]}
        (tmp_path / "sbom.cdx.json").write_text(json.dumps(sbom))
        monkeypatch.setattr(vulnerabilities, "ACCEPTED", tmp_path / "accepted.json")
        monkeypatch.setattr(sys, "argv", ["vulnerabilities", str(tmp_path / "sbom.cdx.json"), "--url", url])
        status = run(main)
        shown = capsys.readouterr()
        return status, shown.out + shown.err

    return run_it


def test_known_vulnerabilities_of_all_pages_are_named_and_end_with_1(audit):
    with serving() as (url, asked):
        status, output = audit(url, *KNOWN, "pkg:pypi/numpy@2.0", "pkg:generic/webp@1.6.0", "pkg:maven/com.google.guava/guava")
    assert status == 1
    for line in (
        "pkg:pypi/pillow@1.0: GHSA-1 CVE-1: what GHSA-1 is",
        "pkg:pypi/pillow@1.0: GHSA-2 CVE-2",
        "netty-codec@4.1: GHSA-3",
    ):
        assert line in output
    assert "3 components audited, 2 not (no version, or unknown to OSV), 0 accepted" in output
    assert "error: 3 known vulnerabilities: take a newer version, or add each to accepted.json with its reason" in output
    assert set(asked) == {*KNOWN, "pkg:pypi/numpy@2.0"}


def test_accepted_ones_are_counted_and_no_failure(audit):
    accepted = [
        {"purl": "pkg:maven/", "id": "*", "why": "no newer release"},
        {"purl": "pkg:pypi/pillow@", "id": "CVE-1", "why": "not reached"},
        {"purl": "pkg:pypi/pillow@1.0", "id": "GHSA-2", "why": "not reached"},
    ]
    with serving() as (url, _):
        status, output = audit(url, *KNOWN, accepted=accepted)
        assert status == 0
        assert "netty-codec@4.1: GHSA-3 CVE-3: what GHSA-3 is (accepted: no newer release)" in output
        assert "2 components audited, 0 not (no version, or unknown to OSV), 3 accepted" in output
        assert audit(url, *KNOWN, accepted=accepted[1:])[0] == 1


def test_silence_is_no_clean_bill(audit):
    with serving(500) as (url, _):
        status, output = audit(url, *KNOWN)
    assert status == 1
    assert "error: OSV does not answer, so nothing is known" in output
    assert audit(url, *KNOWN)[0] == 1  # nobody there any more


def test_lock_file_lists_all_its_packages_and_no_other_file_passes(tmp_path):
    found = purls(ROOT / "uv.lock")
    assert len(found) > 250
    assert all(purl.startswith("pkg:pypi/") for purl in found)
    assert not any("seefood" in purl for purl in found)
    (tmp_path / "a.json").write_text("[]")
    with pytest.raises(ValueError, match=r"a\.json is neither a uv\.lock nor a CycloneDX SBOM"):
        purls(tmp_path / "a.json")


def test_every_accepted_one_has_its_reason(tmp_path):
    assert read_accepted(ACCEPTED)
    (tmp_path / "accepted.json").write_text('[{"purl": "pkg:pypi/a", "id": "*", "why": " "}]')
    with pytest.raises(ValueError, match=r"pkg:pypi/a \* has no reason"):
        read_accepted(tmp_path / "accepted.json")
    (tmp_path / "accepted.json").write_text('[{"purl": "pkg:pypi/a"}]')
    with pytest.raises(ValueError, match='each entry needs "purl", "id" and "why"'):
        read_accepted(tmp_path / "accepted.json")
