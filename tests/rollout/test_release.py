"""The release document, its settings and figures, and the stores that it lies in: a folder, and moto's S3 server."""

import json
import math
import os
import re
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import boto3
import pytest
from moto.s3.models import s3_backends
from moto.server import ThreadedMotoServer

from scripts.release.document import ReleaseError, canaries, default_of, fingerprint, make, parse, write
from scripts.release.store import ChangedError, FolderStore, StoreError, open_store
from scripts.rollout.comparison import figures_of, percentile, since, why_worse
from scripts.settings import Settings

# --- the document ---


def entry(version):
    return {"archive": f"seefood-{version}.mar", "sha256": "0" * 64}


VERSIONS = {version: entry(version) for version in ("1.0.0", "1.1.0")}


def text(**changes):
    """A document's text; None takes a key away."""
    document = {"model": "seefood", "versions": VERSIONS, "default": "1.0.0", "stage": "released"}
    document |= {"written": "2026-11-21T14:00:00+00:00", "by": "me@here", "why": "a test", **changes}
    return json.dumps({key: value for key, value in document.items() if value is not None})


def test_document_that_is_made_is_read_again_and_says_who_wrote_it_when():
    canary = {"version": "1.1.0", "percent": 12.5}
    document = make(VERSIONS, "1.0.0", "canary", "to see", canary=canary)
    assert parse(write(document)) == document
    assert (document["default"], document["canary"], document["why"]) == ("1.0.0", canary, "to see")
    assert "@" in document["by"]
    assert timedelta() <= datetime.now(UTC) - datetime.fromisoformat(document["written"]) < timedelta(minutes=1)
    assert make(VERSIONS, "1.0.0", "released", "so", "serve.py")["by"] == "serve.py"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("{", "is no JSON: "),
        ("[]", r"\$: \[\] is not of type 'object'"),
        (text(why=None), r"\$: 'why' is a required property"),
        (text(extra=1), r"\$: Additional properties are not allowed \('extra' was unexpected\)"),
        (text(model="pizza"), r"\$\.model: 'seefood' was expected"),
        (text(stage="new"), r"\$\.stage: 'new' is not one of"),
        (text(default="1.0"), r"\$\.default: '1\.0' does not match"),
        (text(versions={}), r"\$\.versions: {}"),
        (text(versions={"1.0.0": {**entry("1.0.0"), "sha256": "0"}}), r"\$\.versions\S+\.sha256: '0' does not match"),
        (text(versions={"1.0.0": {**entry("1.0.0"), "archive": "../x.mar"}}), r"\$\.versions\S+\.archive: '\.\./x\.mar' does not"),
        (text(canary={"version": "1.1.0", "percent": 100}), r"\$\.canary\.percent: 100 is greater"),
        (text(canary={"version": "1.1.0", "percent": 0}), r"\$\.canary\.percent: 0 is less"),
        (text(shadow={"version": "1.1.0", "photos": 0}), r"\$\.shadow\.photos: 0 is less"),
        (text(stage="new", model="pizza"), r"\$\.model: .*; \$\.stage: "),
        (text(default="2.0.0"), r"default version is 2\.0\.0, its versions are \['1\.0\.0', '1\.1\.0'\]"),
        (text(canary={"version": "2.0.0", "percent": 5}), r"canary version is 2\.0\.0, its versions are"),
        (text(shadow={"version": "2.0.0", "photos": 5}), r"shadow version is 2\.0\.0, its versions are"),
        (text(canary={"version": "1.0.0", "percent": 5}), r"canary is its default version, 1\.0\.0"),
        (text(versions={"1.0.0": entry("1.1.0")}), r"archive of 1\.0\.0 is seefood-1\.1\.0\.mar, expected seefood-1\.0\.0\.mar"),
        pytest.param(text(versions=VERSIONS | {"01.0.0": entry("01.0.0")}), r"01\.0\.0"),
        (text(canary={"version": "1.1.0", "percent": math.nan}), "NaN"),
        pytest.param("[" * 100_000, "is no JSON: ", id="nested too deeply"),
    ],
)
def test_document_that_cannot_be_obeyed_is_refused_with_the_place(content, problem):
    with pytest.raises(ReleaseError, match=problem):
        parse(content)


def test_each_document_has_a_fingerprint_of_its_own():
    document = parse(text())
    assert fingerprint(document) == fingerprint(dict(reversed(document.items())))
    others = [text(default="1.1.0"), text(why="other"), text(canary={"version": "1.1.0", "percent": 5})]
    assert len({fingerprint(parse(other)) for other in [text(), *others]}) == 4


INSTANCES = [f"host-{i}-8080" for i in range(40)]


@pytest.mark.parametrize(
    ("count", "percent", "chosen"),
    [(3, 33, 0), (3, 34, 1), (10, 10, 1), (10, 29, 2), (100, 7, 7), (100, 29, 29), (1, 99, 0), (0, 50, 0)],
)
def test_share_of_canaries_is_rounded_down(count, percent, chosen):
    assert len(canaries([f"i-{i}" for i in range(count)], percent)) == chosen


def test_canaries_are_the_same_wherever_they_are_chosen_and_more_percent_only_add_some():
    before = []
    for percent in range(1, 100):
        chosen = canaries(INSTANCES, percent)
        assert chosen[: len(before)] == before
        assert canaries([*reversed(INSTANCES), *INSTANCES], percent) == chosen
        before = chosen
    assert len(before) == 39
    # these are what every release of this code must choose, or instances of two releases would disagree
    assert canaries(["a", "b", "c", "d"], 50) == ["d", "c"]


def test_canaries_alone_make_the_canary_their_default_and_all_others_the_default():
    document = parse(text(canary={"version": "1.1.0", "percent": 25}))
    defaults = {instance: default_of(document, instance, INSTANCES) for instance in INSTANCES}
    assert {instance for instance, version in defaults.items() if version == "1.1.0"} == set(canaries(INSTANCES, 25))
    assert set(defaults.values()) == {"1.0.0", "1.1.0"}
    # an instance that has not written its status yet counts itself
    first, *others = canaries(INSTANCES, 25)
    assert default_of(document, first, others) == default_of(document, first, [first, *others])
    assert {default_of(parse(text()), instance, INSTANCES) for instance in INSTANCES} == {"1.0.0"}


# --- settings ---


def test_environment_sets_what_it_names_and_nothing_else():
    given = {"SEEFOOD_GRACE_S": "1.5", "SEEFOOD_KEEP_ARCHIVES": "7", "SEEFOOD_LOG_JSON": "True", "PATH": "x"}
    assert Settings.from_environment(given) == Settings(grace_s=1.5, keep_archives=7, log_json=True)
    assert Settings.from_environment({"SEEFOOD_CAPTURE_DIR": "set by serve.py for its workers"}) == Settings()


def test_unknown_setting_is_refused_by_name_and_the_known_ones_are_told():
    with pytest.raises(ValueError, match="SEEFOOD_GRACE is set, expected one of .*'SEEFOOD_GRACE_S'"):
        Settings.from_environment({"SEEFOOD_GRACE": "1"})


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        *(("SEEFOOD_POLL_S", value, "a number") for value in ("soon", "", "-1", "nan", "inf", "1e99")),
        *(("SEEFOOD_KEEP_ARCHIVES", value, "a number") for value in ("1.5", "many")),
        *(("SEEFOOD_LOG_JSON", value, "true or false") for value in ("1", "yes", "")),
    ],
)
def test_setting_that_cannot_be_is_refused_by_name_and_value(name, value, expected):
    with pytest.raises(ValueError, match=f"{name} is {value!r}, expected {expected}"):
        Settings.from_environment({name: value})


# --- figures ---


@pytest.mark.parametrize(
    ("seconds", "share", "expected"),
    [
        ({"0.1": 0, "0.2": 100, "+Inf": 100}, 0.5, 0.15),
        ({"0.1": 50, "0.2": 100, "+Inf": 100}, 0.99, 0.198),
        ({"0.1": 100, "+Inf": 100}, 0.5, 0.05),  # the first bucket begins at 0
        ({"0.1": 90, "+Inf": 100}, 0.99, 0.1),  # beyond the last bound nothing is known
        ({"0.1": 50, "0.2": 50, "0.4": 100, "+Inf": 100}, 0.5, 0.1),
        ({"10.0": 100, "+Inf": 100, "9.0": 0}, 0.5, 9.5),  # bounds are numbers, not words
        ({"0.1": 0, "+Inf": 0}, 0.99, math.nan),
        ({}, 0.99, math.nan),
    ],
)
def test_percentile_is_interpolated_as_prometheus_does(seconds, share, expected):
    assert percentile(seconds, share) == pytest.approx(expected, nan_ok=True)


def status(outcomes, seconds, restarts=0):
    return {"figures": {"1.1.0": {"outcomes": outcomes, "seconds": seconds}}, "worker_restarts": {"1.1.0": restarts}}


def test_figures_of_all_instances_add_up_and_what_was_before_is_taken_off():
    first = status({"answered": 90, "explained": 4, "failed": 5, "unreadable": 1}, {"0.1": 80, "+Inf": 100}, 1)
    second = status({"answered": 10}, {"0.1": 10, "+Inf": 10})
    idle = {"figures": {}, "worker_restarts": {}}
    before = figures_of({"a": first, "c": idle}, "1.1.0")
    assert before == {"requests": 100, "errors": 6, "restarts": 1, "seconds": {"0.1": 80, "+Inf": 100}}
    now = figures_of({"a": first, "b": second, "c": idle}, "1.1.0")
    assert since(now, before) == {"requests": 10, "errors": 0, "restarts": 0, "seconds": {"0.1": 10, "+Inf": 10}}
    assert figures_of({"a": first}, "1.0.0") == {"requests": 0, "errors": 0, "restarts": 0, "seconds": {}}
    # an instance was started anew, and counts from 0
    assert since(before, now) == {"requests": 0, "errors": 0, "restarts": 0, "seconds": {"0.1": 0, "+Inf": 0}}


def figures(requests=1000, errors=0, p99_s=0.1, restarts=0):
    return {"requests": requests, "errors": errors, "restarts": restarts, "seconds": {str(p99_s): 0, "+Inf": requests}}


@pytest.mark.parametrize(
    ("new", "old", "why"),
    [
        (figures(errors=20), figures(errors=10), ""),
        (figures(errors=21), figures(errors=10), "more errors: 1000 requests: 2.10 % errors, .*the old version's 1000: 1.00 %"),
        (figures(errors=10), figures(errors=500), ""),
        (figures(p99_s=0.15), figures(p99_s=0.1), ""),
        (figures(p99_s=0.151), figures(p99_s=0.1), "slower: .*p99 151 ms; .* 100 ms"),
        (figures(p99_s=0.03), figures(p99_s=0.01), ""),  # three times as slow, but 20 ms are nothing
        (figures(p99_s=0.031), figures(p99_s=0.01), "slower"),
        (figures(p99_s=0.01), figures(p99_s=0.1), ""),
        (figures(requests=100, errors=100), figures(requests=100), "more errors"),
        (figures(requests=99, errors=99, p99_s=9), figures(), ""),
        (figures(errors=1000, p99_s=9), figures(requests=99), ""),
        (figures(requests=0, restarts=1), figures(), "its worker died 1 times"),
        ({**figures(), "seconds": {}}, figures(), ""),
        (figures(), {**figures(), "seconds": {}}, ""),
    ],
)
def test_new_version_is_worse_beyond_the_margin_and_not_at_it(new, old, why):
    worse, compared = why_worse(new, old, Settings(min_requests=100, worse_error_rate=0.01, worse_p99=1.5, worse_p99_s=0.02))
    assert re.match(why, worse)
    assert bool(worse) == bool(why)
    if min(new["requests"], old["requests"]) < 100 and not why:
        assert compared.endswith("too few to compare")
    elif not why:
        assert compared.startswith("1000 requests: ")


# --- stores ---


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


def test_address_that_is_none_is_refused(tmp_path):
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


def said(store):
    return [status for _, status in store.statuses()]


def test_instances_say_how_they_are_and_then_no_more(store):
    assert store.statuses() == []
    store.write_status("b", {"instance": "b", "why": "x"})
    store.write_status("a", {"instance": "a", "why": "\N{HOT BEVERAGE}"})
    assert said(store) == [{"instance": "a", "why": "\N{HOT BEVERAGE}"}, {"instance": "b", "why": "x"}]
    store.write_status("b", {"instance": "b", "why": "y"})
    store.write_status("a", None)
    store.write_status("a", None)
    assert said(store) == [{"instance": "b", "why": "y"}]


def test_status_that_is_no_json_is_passed_over(request, store, s3):
    store.write_status("a", {"instance": "a"})
    store.write_status("b", {"instance": "b"})
    if isinstance(store, FolderStore):
        (store.status_dir / "a.json").write_bytes(b"{")
    else:
        s3.put_object(Bucket="kept", Key=f"{store.status_prefix}a.json", Body=b"{")
    assert said(store) == [{"instance": "b"}]


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
    assert said(store) == [{"instance": "a"}]


def test_bucket_without_versions_is_refused_and_nothing_is_written(s3):
    store = open_store("s3://plain/some/release.json")
    with pytest.raises(StoreError, match="'plain' keeps no old versions .*aws s3api put-bucket-versioning --bucket plain"):
        store.write("one", None)
    assert "Contents" not in s3.list_objects_v2(Bucket="plain")


def test_store_that_is_away_says_so(s3, tmp_path, monkeypatch, archive):
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
