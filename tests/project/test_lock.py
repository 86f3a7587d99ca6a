"""uv.lock: all that pyproject.toml asks for, from one index, each file with its hash."""

import re
import tomllib
from urllib.parse import urlsplit

import pytest

from tests.conftest import ROOT

LOCK = tomllib.loads((ROOT / "uv.lock").read_text())
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGES = [package for package in LOCK["package"] if package["name"] != "seefood"]
(OWN,) = [package for package in LOCK["package"] if package["name"] == "seefood"]


def names(requirements):
    """The packages' names; one may be there in several versions, for several Pythons."""
    return {re.match(r"[\w.-]+", one if isinstance(one, str) else one["name"])[0].lower() for one in requirements}


def test_every_package_comes_from_one_index_and_is_pinned_by_hashes():
    """A lock file that was written through a mirror, or half of it, would name addresses that others cannot reach."""
    assert len(PACKAGES) > 250
    index, files_at = PACKAGES[0]["source"], urlsplit(PACKAGES[0]["wheels"][0]["url"])
    for address in (urlsplit(index["registry"]), files_at):
        assert address.scheme == "https"
        assert address.netloc == address.hostname  # no port, no credentials
        assert re.fullmatch(r"[a-z]+(\.[a-z]+)+", address.hostname)  # no address in numbers
    for package in PACKAGES:
        assert package["source"] == index, package["name"]
        files = [*package.get("wheels", []), *([package["sdist"]] if "sdist" in package else [])]
        assert files, package["name"]
        for file in files:
            assert urlsplit(file["url"])[:2] == files_at[:2], file
            assert re.fullmatch("sha256:[0-9a-f]{64}", file["hash"]), file


@pytest.mark.parametrize("extra", PROJECT["project"]["optional-dependencies"])
def test_every_extra_of_the_project_is_locked(extra):
    assert names(OWN["optional-dependencies"][extra]) == names(PROJECT["project"]["optional-dependencies"][extra])
    asked = [one for one in OWN["metadata"]["requires-dist"] if one.get("marker", "").endswith(f"extra == '{extra}'")]
    assert names(asked) == names(PROJECT["project"]["optional-dependencies"][extra])


def test_every_group_of_the_project_is_locked_for_the_same_pythons():
    assert {group: names(asked) for group, asked in OWN["dev-dependencies"].items()} == {
        group: names(asked) for group, asked in PROJECT["dependency-groups"].items()
    }
    assert LOCK["requires-python"] == PROJECT["project"]["requires-python"]
