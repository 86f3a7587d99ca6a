"""What scripts/install.py tells uv of pip's settings."""

import os
import sys
from pathlib import Path

import pytest

from scripts.install import index_of_pip

PYTHON = Path(sys.executable)


@pytest.fixture
def pip_settings(tmp_path, monkeypatch):
    """Pip with no settings but those that are written to this file."""
    for variable in ("PIP_INDEX_URL", "PIP_CERT", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(variable, raising=False)
    file = tmp_path / "pip.conf"
    file.write_text("")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(file))
    return file


def test_mirror_and_certificates_of_pip_are_those_of_uv(pip_settings, monkeypatch):
    pip_settings.write_text("[global]\nindex-url = https://mirror.example/simple\ncert = /own/bundle.pem\n")
    assert index_of_pip(PYTHON) == {"UV_DEFAULT_INDEX": "https://mirror.example/simple", "SSL_CERT_FILE": "/own/bundle.pem"}
    monkeypatch.setenv("PIP_INDEX_URL", "https://other.example/simple")
    assert index_of_pip(PYTHON)["UV_DEFAULT_INDEX"] == "https://other.example/simple"


def test_certificates_that_pip_takes_from_the_environment_are_those_of_uv(pip_settings, monkeypatch):
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)  # no other file either
    assert index_of_pip(PYTHON) == {}
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/bundle.pem")
    assert index_of_pip(PYTHON)["SSL_CERT_FILE"] == "/bundle.pem"
