"""Archives made to harm whoever unpacks them: refused with what is wrong, before anything is written."""

import re
import stat
import subprocess
import zipfile

import pytest

from handler.parts import checksums
from scripts.archive.read import inspect, unpack
from scripts.archive.unzip import MAX_MEMBERS, extract
from tests.conftest import ROOT

LINK, DEVICE, PIPE = (kind | 0o644 for kind in (stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO))


def entry(name, mode=0o644, method=zipfile.ZIP_DEFLATED):
    """A zip entry by its name as it is, which ZipInfo would tidy up."""
    info = zipfile.ZipInfo("x")
    info.filename = info.orig_filename = name
    info.external_attr, info.compress_type = mode << 16, method
    return info


def made(path, *entries):
    """A zip of (entry, content) at `path`."""
    with zipfile.ZipFile(path, "w") as archive:
        for info, content in entries:
            archive.writestr(info, content)
    return path


def changed(path, place, before, after):
    """A zip's file with some bytes of the last directory entry changed, counted from where it begins."""
    content = bytearray(path.read_bytes())
    at = content.rindex(b"PK\1\2") + place
    assert content[at : at + len(before)] == before
    content[at : at + len(after)] = after
    path.write_bytes(content)
    return path


OUTSIDE = [
    "../x",
    "a/../../x",
    "/x",
    "//x",
    "a//x",
    "./x",
    "a/./x",
    "..",
    "C:/x",
    "c:x",
    "..\\x",
    "a\\x",
    "a\0b",
    "a\nb",
    "x" * 256,
]


@pytest.mark.parametrize("name", OUTSIDE)
def test_name_that_is_no_path_inside_the_folder_is_refused(tmp_path, name):
    refused(made(tmp_path / "a.mar", (entry(name), "")), "no path inside a folder")


def refused(path, reason):
    """The archive is refused by all that read one, and nothing is left."""
    before = sorted(path.parent.iterdir())
    for read in (lambda: unpack(path, path.parent / "unpacked"), lambda: inspect(path)):
        with pytest.raises(ValueError, match=rf"^{re.escape(path.name)}.*{reason}"):
            read()
        assert sorted(path.parent.iterdir()) == before


@pytest.mark.parametrize(
    "names",
    [("a", "a"), ("a.py", "A.py"), ("handler/a", "handler/A"), ("a", "a/b"), ("e\u0301", "\u00e9")],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_name_that_comes_twice_is_refused(tmp_path, names):
    refused(made(tmp_path / "a.mar", *((entry(name), name) for name in names)), "twice")


@pytest.mark.parametrize("mode", [LINK, DEVICE, PIPE])
def test_link_or_device_is_refused(tmp_path, mode):
    refused(made(tmp_path / "a.mar", (entry("a", mode), "/etc/passwd")), "a link or device")


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_method_of_which_no_step_is_bounded_is_refused(tmp_path, method):
    refused(made(tmp_path / "a.mar", (entry("a", method=method), "x")), f"compressed by method {method}, expected 0 or 8")


def test_encrypted_member_is_refused(tmp_path):
    refused(changed(made(tmp_path / "a.mar", (entry("a"), "x")), 8, b"\0\0", b"\1\0"), "encrypted")


def test_python_cache_is_refused_as_no_checksum_names_it(tmp_path):
    refused(made(tmp_path / "a.mar", (entry("handler/__pycache__/a.cpython-311.pyc"), "x")), "Python's cache")


def test_too_many_members_are_refused(tmp_path):
    refused(made(tmp_path / "a.mar", *((entry(str(i)), "") for i in range(MAX_MEMBERS + 1))), "1,001 members")


def test_huge_directory_is_refused_before_it_is_read(tmp_path):
    refused(made(tmp_path / "a.mar", *((entry(f"{i:0200}"), "") for i in range(5000))), "its directory has over 1,048,576 bytes")


def test_bomb_is_refused_before_a_byte_is_unpacked(tmp_path):
    bomb = made(tmp_path / "a.mar", (entry("weights"), bytes(70 * 1024 * 1024)))
    assert bomb.stat().st_size < 100_000
    refused(bomb, r"bytes unpack to 73,400,320, at most 67,108,864 are allowed")


def test_small_claim_does_not_let_more_through(tmp_path):
    path = made(tmp_path / "a.mar", (entry("weights"), bytes(1024 * 1024)))
    refused(changed(path, 24, (1024 * 1024).to_bytes(4, "little"), b"\x10\0\0\0"), "damaged")


def test_large_claim_is_refused(tmp_path):
    refused(changed(made(tmp_path / "a.mar", (entry("a"), "x")), 24, b"\1\0\0\0", b"\xfe\xff\xff\xff"), "unpack to 4,294,967,294")


def test_full_disk_says_what_is_needed_and_is_left_as_it_was(tmp_path, mount_disk):
    disk = mount_disk(tmp_path / "disk", "1m")
    path = made(tmp_path / "a.mar", (entry("a"), bytes(4_000_000)))
    with pytest.raises(OSError, match=r"the disk is full: 1 MB are free in .*/disk/\S+, 4 MB are needed: make room there"):
        unpack(path, disk / "unpacked")
    assert not list(disk.iterdir())


def test_plain_archive_with_folders_and_stored_members_is_unpacked(tmp_path):
    folder = entry("a/", 0o755 | stat.S_IFDIR)
    extract(made(tmp_path / "a.mar", (folder, ""), (entry("a/b", method=0), "x"), (entry("c", 0), "y")), tmp_path / "out")
    assert list(checksums(tmp_path / "out")) == ["a/b", "c"]


def test_nothing_else_reads_archives():
    """Jars of installed packages are the exception; pack.py only writes; three catch or list what NumPy and torch wrote."""
    found = subprocess.run(
        ["git", "grep", "--untracked", "-lE", r"zipfile|tarfile|unpack_archive|is_zipfile", "--", "scripts", "training", "handler"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    of_jars = {"scripts/audit/jars.py", *(f"scripts/backend/torchserve/{name}.py" for name in ("frontend_patch", "native"))}
    of_others = {"training/data/split.py", "training/weights/file.py", "handler/signals.py"}
    assert set(found) == of_jars | of_others | {"scripts/archive/unzip.py", "scripts/archive/pack.py"}
