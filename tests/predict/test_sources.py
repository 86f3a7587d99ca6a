"""Which photos: folders, lists as people and programs write them, S3."""

import errno
import os
from collections import Counter
from pathlib import Path

import pytest

from scripts.folders import files_below, not_taken, unreadable, walk
from scripts.predict.bucket import StoredPhoto, upload
from scripts.predict.out import Out, put
from scripts.predict.photo import LocalPhoto, PredictError, UnreadError
from scripts.predict.sources import Source, photo_named


def names(address):
    return [photo.name for photo in Source(str(address)).photos()]


def test_a_folder_is_walked_in_the_order_in_which_its_tree_is_sorted(tmp_path):
    for name in ("b/1.jpg", "b.jpg", "a/z/1.jpg", "a/y", "a-b/1", "ü.jpg", ".hidden", "a/Thumbs.db"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "gone").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe")
    passed, walked = Counter(), Counter()
    assert list(walk(tmp_path, walked)) == files_below(tmp_path, passed)
    assert len(list(walk(tmp_path, Counter()))) == 6
    assert walked == passed
    assert set(passed) == {
        "hidden",
        "Thumbs.db",
        "link to a folder above it",
        "link that leads nowhere",
        "no file (a device, pipe or socket)",
    }


def test_what_the_run_itself_writes_is_no_photo(tmp_path, monkeypatch):
    for name in ("a.jpg", "labels.csv", "labels.csv.part", "old/labels.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    source = Source(".", Out("labels.csv").results)
    assert [photo.name for photo in source.photos()] == ["a.jpg", "old/labels.csv"]
    assert source.count() == 2


def test_what_a_run_that_was_killed_left_beside_its_results_is_no_photo(tmp_path, monkeypatch):
    leftovers = ["labels.csv.4711-0123abcd.part", "labels.html.4711-0123abcd.part", "labels.csv.part"]
    photos = ["a.jpg", "b.jpg.4711-0123abcd.part", "labels.csv.1.part"]
    for name in (*leftovers, *photos):
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    assert [photo.name for photo in Source(".", Out("labels.csv").results).photos()] == photos


@pytest.mark.parametrize("out", ["list.csv", "here/list.csv", "linked.csv", "also.csv", "a.csv"])
def test_results_are_never_written_over_photos_or_their_list(tmp_path, monkeypatch, out):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "list.csv").write_text("path\na.jpg\n")
    (tmp_path / "a.html").touch()
    (tmp_path / "here").symlink_to(".")
    (tmp_path / "linked.csv").symlink_to("list.csv")
    os.link("list.csv", "also.csv")
    with pytest.raises(ValueError, match="OUT would write over .*, which is PHOTOS: choose another name"):
        Source("a.html" if out == "a.csv" else "list.csv", Out(out).results)


def test_results_on_s3_are_not_written_over_the_photo(s3):
    with pytest.raises(ValueError, match="OUT would write over s3://photos/a.jsonl"):
        Source("s3://photos/a.jsonl", Out("s3://photos/a.jsonl").results)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("labels.csv/", "expected a name that ends in .csv"),
        ("labels.csv/.", "expected a name that ends in .csv"),
        ("s3://photos/labels.csv/", "expected a name that ends in .csv"),
        ("x" * 236 + ".csv", "expected a name of at most 233 bytes"),
        ("ü" * 115 + ".csv", "expected a name of at most 233 bytes"),
        ("s3://photos/" + "x" * 1021 + ".csv", "expected a name of at most 1024 bytes"),
        (os.fsdecode(b"s3://photos/caf\xe9.csv"), "expected UTF-8"),
    ],
)
def test_a_name_that_no_result_can_have_is_refused_at_the_start(address, message):
    with pytest.raises(ValueError, match=message):
        Out(address)


def test_the_longest_name_can_be_written(tmp_path):
    out = Out(str(tmp_path / ("x" * 228 + ".csv")))
    out.write(iter(()))
    put(out.sheet, Path.touch, "")
    assert {path.name for path in tmp_path.iterdir()} == {"x" * 228 + ".csv", "x" * 228 + ".html"}


def test_folders_that_cannot_be_read_are_counted_as_folders(tmp_path, monkeypatch):
    (tmp_path / "a" / "locked").mkdir(parents=True)
    (tmp_path / "a" / "1.jpg").touch()
    scandir = os.scandir

    def locked(path):  # root may read any folder
        if Path(path).name == "locked":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", locked)
    walked, passed = Counter(), Counter()
    assert list(walk(tmp_path, walked)) == files_below(tmp_path, passed) == [tmp_path / "a" / "1.jpg"]
    assert walked == passed
    assert unreadable(walked) == 1
    assert not_taken("photos", walked) == "not taken: 1 folder of photos: 1 not readable (Permission denied) folder"


@pytest.mark.parametrize("name", ["list.txt", "list.csv"])
def test_a_list_with_the_line_ends_of_an_old_mac_is_read(tmp_path, name):
    (tmp_path / name).write_bytes(b"path\ra.jpg\rb.jpg\r" if name == "list.csv" else b"a.jpg\rb.jpg\r")
    assert names(tmp_path / name) == [f"{tmp_path}/a.jpg", f"{tmp_path}/b.jpg"]


@pytest.mark.parametrize("more", [1, 100_000])
def test_a_quote_that_is_left_open_is_named_with_its_file_and_line(tmp_path, more):
    (tmp_path / "list.csv").write_text('path\na.jpg\n"b.jpg\n' + "c.jpg\n" * more)
    with pytest.raises(ValueError, match=r"list.csv, line \d+: .*: is a quote left open\?"):
        names(tmp_path / "list.csv")


@pytest.mark.parametrize("line", [b"s3://bucket/caf\xe9.jpg", b"s3://My Bucket/x", b"s3://[/x", b"s3://bucket", b"s3:///x"])
def test_an_address_that_cannot_be_is_the_error_of_its_row(tmp_path, monkeypatch, line):
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    (tmp_path / "list.txt").write_bytes(line + b"\n")
    (photo,) = Source(str(tmp_path / "list.txt")).photos()
    assert photo.name == line.decode(errors="replace").replace("\ufffd", "?")
    with pytest.raises(UnreadError, match="expected|Invalid"):
        photo.read()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_list_is_read_however_it_was_written(tmp_path, encoding, end):
    for name in ("a.jpg", "#1.jpg", "two words.jpg", "ü.jpg", "'q'.jpg", " padded.jpg"):
        (tmp_path / name).write_bytes(b"")
    lines = ["# a comment", "a.jpg", "", "   ", "#1.jpg", '"two words.jpg"', "  ü.jpg  ", "'q'.jpg", " padded.jpg"]
    lines += [str(tmp_path / "a.jpg"), "gone.jpg", "s3://bucket/a b.jpg", "s3://bucket", "a.jpg"]
    (tmp_path / "list.txt").write_bytes(end.join(lines).encode(encoding))
    expected = ["a.jpg", "#1.jpg", "two words.jpg", "ü.jpg", "'q'.jpg", " padded.jpg", "a.jpg", "gone.jpg"]
    assert names(tmp_path / "list.txt") == [
        *(f"{tmp_path}/{name}" for name in expected),
        "s3://bucket/a b.jpg",
        "s3://bucket",
        f"{tmp_path}/a.jpg",
    ]
    assert Source(str(tmp_path / "list.txt")).count() == 11


def test_names_in_no_encoding_are_found(tmp_path):
    path = os.fsencode(tmp_path) + b"/caf\xe9.jpg"
    with open(path, "wb") as file:  # noqa: PTH123 - a name of bytes
        file.write(b"photo")
    (tmp_path / "list.txt").write_bytes(b"caf\xe9.jpg\n")
    for source in (tmp_path, tmp_path / "list.txt"):
        photos = [photo for photo in Source(str(source)).photos() if "caf" in photo.name]
        assert [(photo.name, photo.read()) for photo in photos] == [(f"{tmp_path}/caf?.jpg", b"photo")]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_a_table_gives_the_photos_of_its_column(tmp_path, separator):
    (tmp_path / "list.csv").write_text(
        f'label{separator}Path\nramen{separator}"a, b.jpg"\npizza{separator}c.jpg\n\n', encoding="utf-8"
    )
    assert names(tmp_path / "list.csv") == [f"{tmp_path}/a, b.jpg", f"{tmp_path}/c.jpg"]


def test_a_table_without_such_a_column_is_refused_with_its_columns(tmp_path):
    (tmp_path / "list.csv").write_text("label,title\n")
    with pytest.raises(ValueError, match="has the columns label, title: expected one named path or photo"):
        names(tmp_path / "list.csv")


def test_what_is_no_photo_file_has_a_reason(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "large.jpg").touch()
    os.truncate(tmp_path / "large.jpg", 3_000_000_000)
    for name, reason in {
        "gone.jpg": "there is no such file",
        ".": "a folder, expected a photo",
        "pipe": "is no file (a device, pipe or socket)",
        "large.jpg": "the photo has 3,000,000,000 bytes, the limit is 20,971,520",
        "a\0b.jpg": "there is no such file",
    }.items():
        with pytest.raises(UnreadError) as caught:
            LocalPhoto(tmp_path / name).read()
        assert str(caught.value) == reason


@pytest.mark.parametrize("count", [5, pytest.param(1005, marks=pytest.mark.slow)])  # a page of a listing has 1,000
def test_a_prefix_is_a_folder_or_one_object_and_has_any_number_of_photos(s3, count):
    keys = [f"many/{number:04}.jpg" for number in range(count)]
    for key in [*keys, "many/", "many/.DS_Store", "many/@eaDir/1.jpg", "many2/1.jpg", "one.jpg", "one.jpg.bak"]:
        s3.put_object(Bucket="photos", Key=key, Body=b"photo")
    source = Source("s3://photos/many")
    photos = list(source.photos())
    assert [photo.name for photo in photos] == [f"s3://photos/{key}" for key in keys]
    assert source.passed == {".DS_Store": 1, "@eaDir": 1}
    assert photos[0].read() == b"photo"
    assert photos[0].stamp()
    assert names("s3://photos/one.jpg") == ["s3://photos/one.jpg"]
    assert names("s3://photos/none") == []
    s3.put_object(Bucket="photos", Key="many/0000.jpg", Body=b"another")
    assert next(source.photos()).stamp() != photos[0].stamp()


def test_what_is_not_on_s3_is_said_with_its_address(s3, tmp_path):
    with pytest.raises(UnreadError, match="there is no such object"):
        photo_named("s3://photos/gone.jpg").read()
    with pytest.raises(PredictError, match="s3://nowhere/a: there is no such bucket"):
        names("s3://nowhere/a")
    (tmp_path / "a").write_text("")
    with pytest.raises(PredictError, match="s3://nowhere/labels.csv: .*does not exist"):
        upload(tmp_path / "a", "s3://nowhere/labels.csv", "text/csv")


def test_an_object_over_the_limit_is_not_fetched(s3):
    s3.put_object(Bucket="photos", Key="large.jpg", Body=bytes(21_000_000))
    with pytest.raises(UnreadError, match="the photo has 21,000,000 bytes, the limit is 20,971,520"):
        StoredPhoto("photos", "large.jpg").read()
