"""The stores of a release document: a folder, and moto's S3 server."""

import os
import re
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import boto3
import pytest
from moto.s3.models import s3_backends
from moto.server import ThreadedMotoServer

from scripts.release.address import open_store
from scripts.release.folder_store import FolderStore
from scripts.release.store import ChangedError, StoreError


@pytest.fixture(scope="module")
def s3():
    """A client of an S3 server with a versioned bucket `kept` and an unversioned one `plain`."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    names = {"AWS_ENDPOINT_URL_S3": "http://{}:{}".format(*server.get_host_and_port())}
    names |= {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in names.items():
            patch.setenv(name, value)
        client = boto3.client("s3")
        for bucket in ("kept", "plain"):
            client.create_bucket(Bucket=bucket)
        client.put_bucket_versioning(Bucket="kept", VersioningConfiguration={"Status": "Enabled"})
        yield client
    client.close()
    server.stop()


@pytest.fixture(params=["folder", "s3"])
def store(request, tmp_path):
    """An empty store of each kind; nothing half-made may be left in it."""
    if request.param == "s3":
        request.getfixturevalue("s3")
        yield open_store(f"s3://kept/{tmp_path.name}/release.json")
    else:
        yield open_store(str(tmp_path / "store" / "release.json"))
        assert not list(tmp_path.rglob("*.part"))


@pytest.fixture
def archive(tmp_path):
    path = tmp_path / "seefood-1.0.0.mar"
    path.write_bytes(b"archive" * 2000)
    return path


def test_bad_address_is_refused(tmp_path):
    assert isinstance(open_store(str(tmp_path / "release.json")), FolderStore)
    for address in ("release", "http://host/release.json", "s3://bucket/release", "s3://bucket", "s3:///release.json", ""):
        with pytest.raises(ValueError, match=r"release is '.*', expected .*s3://bucket/key.* ends in \.json"):
            open_store(address)


def test_document_is_read_as_it_was_written_and_again_only_when_it_has_changed(store):
    with pytest.raises(FileNotFoundError):
        store.read()
    first = store.write("one", None)
    assert store.read() == ("one", first)
    assert store.read(first) is None
    second = store.write("two \N{HOT BEVERAGE}", first)
    assert store.read(first) == ("two \N{HOT BEVERAGE}", second)
    assert store.read(second) is None


def test_document_that_somebody_else_has_written_is_not_overwritten(store):
    first = store.write("one", None)
    second = store.write("two", first)
    for tag in (None, first, "a tag of old"):
        with pytest.raises(ChangedError, match="somebody else"):
            store.write("three", tag)
    assert store.read() == ("two", second)
    assert store.history() == ["two", "one"]


def test_document_that_is_there_no_more_is_not_written_by_its_old_tag(request, store):
    with pytest.raises(ChangedError, match="somebody else"):
        store.write("one", "a tag of old")
    with pytest.raises(FileNotFoundError):
        store.read()


def test_of_many_who_write_at_a_time_one_wins(store):
    first = store.write("first", None)

    def attempt(number):
        try:
            return store.write(f"by {number}", first) and number
        except ChangedError:
            return None

    with ThreadPoolExecutor(8) as pool:
        (winner,) = [number for number in pool.map(attempt, range(8)) if number is not None]
    assert store.history() == [f"by {winner}", "first"]


def test_history_holds_all_documents_the_newest_first(store):
    assert store.history() == []
    tag = None
    for number in range(12):
        tag = store.write(str(number), tag)
    assert store.history() == [str(number) for number in reversed(range(12))]


def test_archive_is_put_once_and_fetched_whole(store, archive, tmp_path):
    store.write("there", None)
    assert not store.has(archive.name)
    with pytest.raises(FileNotFoundError):
        store.fetch(archive.name, tmp_path / "fetched")
    store.put(archive)
    store.put(archive)
    assert store.has(archive.name)
    store.fetch(archive.name, tmp_path / "fetched")
    assert (tmp_path / "fetched").read_bytes() == archive.read_bytes()


def test_another_archive_of_the_same_name_is_refused_and_the_first_one_stays(store, archive, tmp_path):
    store.write("there", None)
    store.put(archive)
    content = archive.read_bytes()
    archive.write_bytes(b"another")
    with pytest.raises(ValueError, match=r"another seefood-1\.0\.0\.mar lies beside .*never overwritten"):
        store.put(archive)
    store.fetch(archive.name, tmp_path / "fetched")
    assert (tmp_path / "fetched").read_bytes() == content


def test_archive_can_be_put_before_there_is_a_document(request, store, archive):
    store.put(archive)
    assert store.has(archive.name)


def statuses(store):
    return [status for _, status in store.statuses()]


def test_statuses_are_written_replaced_and_removed(store):
    assert store.statuses() == []
    store.write_status("b", {"instance": "b", "why": "x"})
    store.write_status("a", {"instance": "a", "why": "\N{HOT BEVERAGE}"})
    assert statuses(store) == [{"instance": "a", "why": "\N{HOT BEVERAGE}"}, {"instance": "b", "why": "x"}]
    store.write_status("b", {"instance": "b", "why": "y"})
    store.write_status("a", None)
    store.write_status("a", None)
    assert statuses(store) == [{"instance": "b", "why": "y"}]


def test_status_that_is_no_json_is_passed_over(request, store, s3):
    store.write_status("a", {"instance": "a"})
    store.write_status("b", {"instance": "b"})
    if isinstance(store, FolderStore):
        (store.status_dir / "a.json").write_bytes(b"{")
    else:
        s3.put_object(Bucket="kept", Key=f"{store.status_prefix}a.json", Body=b"{")
    assert statuses(store) == [{"instance": "b"}]


def make_older(store, instance, seconds):
    if isinstance(store, FolderStore):
        os.utime(store.status_dir / f"{instance}.json", (time.time() - seconds,) * 2)
    else:
        (keys,) = [backend["aws"].buckets["kept"].keys for backend in s3_backends.values() if "kept" in backend["aws"].buckets]
        keys[f"{store.status_prefix}{instance}.json"].last_modified -= timedelta(seconds=seconds)


def test_statuses_have_ages_and_are_forgotten_after_a_day(store):
    for instance, age_s in (("a", 0), ("b", 100), ("c", 25 * 3600)):
        store.write_status(instance, {"instance": instance})
        make_older(store, instance, age_s)
    (new_s, new), (old_s, old) = store.statuses()
    assert (new["instance"], old["instance"]) == ("a", "b")
    assert -2 < new_s < 20
    assert 98 < old_s < 120
    make_older(store, "b", 25 * 3600)
    assert statuses(store) == [{"instance": "a"}]


def test_bucket_without_versions_is_refused_and_nothing_is_written(s3, archive):
    store = open_store("s3://plain/some/release.json")
    for write in (lambda: store.write("one", None), lambda: store.put(archive)):
        with pytest.raises(StoreError, match="'plain' keeps no old versions .*aws s3api put-bucket-versioning --bucket plain"):
            write()
    assert "Contents" not in s3.list_objects_v2(Bucket="plain")


def test_store_that_cannot_be_reached_is_named(s3, tmp_path, monkeypatch, archive):
    (tmp_path / "file").touch()
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    stores = [open_store(str(tmp_path / "file" / "release.json")), open_store("s3://missing/release.json")]
    stores.append(open_store("s3://kept/unreachable/release.json"))
    monkeypatch.setattr("botocore.endpoint.time.sleep", lambda seconds: None)  # between its three attempts
    for store in stores:
        if "unreachable" in store.address:
            monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{port}")
        calls = [store.read, lambda store=store: store.write("one", None), lambda store=store: store.write_status("a", {})]
        for call in calls:
            with pytest.raises(StoreError, match=re.escape(store.address.removesuffix("release.json"))):
                call()


def test_archive_for_a_folder_that_is_away_is_refused_as_all_else_is(tmp_path, archive):
    (tmp_path / "file").touch()
    with pytest.raises(StoreError):
        open_store(str(tmp_path / "file" / "release.json")).put(archive)


@pytest.fixture
def full_store(mount_disk, tmp_path):
    """A store with a document in a folder on a full disk."""
    disk = mount_disk(tmp_path / "disk", "64k")
    store = FolderStore(disk / "release.json")
    store.tag = store.write("one", None)
    (disk / "filler").write_bytes(bytes(56 * 1024))
    return store


def test_full_disk_leaves_the_document_that_was_there(full_store):
    with pytest.raises(StoreError, match="No space left on device"):
        full_store.write("x" * 10_000, full_store.tag)
    with pytest.raises(StoreError, match="No space left on device"):
        full_store.write_status("a", {"why": "x" * 10_000})
    assert full_store.read() == ("one", full_store.tag)
    assert not list(full_store.folder.rglob("*.part"))


def test_full_disk_leaves_no_half_archive(full_store, archive):
    with pytest.raises(StoreError, match="No space left on device"):
        full_store.put(archive)
    assert not full_store.has(archive.name)
    assert not list(full_store.folder.rglob("*.part"))
