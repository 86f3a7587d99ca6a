"""The command: what comes into a batch, what does not, what comes the next day, and after a kill."""

import io
import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from handler.capture import Capture
from scripts.collection.batch import PART, finished, read_batch
from scripts.collection.seen import NAME, Seen
from scripts.collection.source import Fetched, Found, clean_title
from scripts.collection.web.client import Web
from scripts.door.feedback import keep
from scripts.predict import bucket
from tests.conftest import ROOT, picture_bytes
from tests.ecs.scripted_aws import moto_server, outside
from tests.waiting import until


def newest(tmp_path):
    return read_batch(finished(tmp_path / "collected")[-1])


def tree(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def with_exif(index):
    exif = Image.Exif()
    exif[0x010F] = "A camera of mine"
    return picture_bytes(index, (64, 48), exif=exif)


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    (folder / "a.jpg").write_bytes(with_exif(1))
    (folder / "more/b.png").write_bytes(picture_bytes(2, (64, 48), "PNG"))
    (folder / "twice.jpg").write_bytes(with_exif(1))
    (folder / "notes.txt").write_text("no photo")
    (folder / "half.jpg").write_bytes(picture_bytes(3, (64, 48))[:600])
    return folder


def test_photos_of_a_folder_come_once_and_stripped_and_what_is_none_is_counted_by_reason(collect, photos, tmp_path):
    done = collect(photos)
    assert done.returncode == 3, done.stderr
    batch = finished(tmp_path / "collected")[0]
    assert done.stdout == f"{batch}: 2 new photos (1 there already)\n"
    assert "2 of 5 photos failed:" in done.stderr
    assert "not an image in a supported format" in done.stderr
    taken = read_batch(batch)
    assert [photo.origin for photo in taken] == [str(photos / "a.jpg"), str(photos / "more/b.png")]
    kept = (batch / taken[0].photo).read_bytes()
    assert b"A camera of mine" in (photos / "a.jpg").read_bytes()
    assert b"A camera of mine" not in kept
    assert Image.open(io.BytesIO(kept)).tobytes() == Image.open(photos / "a.jpg").tobytes()
    assert {(photo.source, photo.title, photo.given) for photo in taken} == {("folder", None, False)}

    before = tree(tmp_path)
    again = collect(photos)
    assert (again.returncode, again.stdout) == (0, "nothing new (5 looked at before)\n")
    assert tree(tmp_path) == before

    (photos / "c.jpg").write_bytes(picture_bytes(4, (64, 48)))
    later = collect(photos)
    assert later.returncode == 0, later.stderr
    assert [photo.origin for photo in newest(tmp_path)] == [str(photos / "c.jpg")]
    assert finished(tmp_path / "collected")[1].name == f"{batch.name}-2"


def test_a_limit_leaves_the_others_for_the_next_run(collect, tmp_path):
    (tmp_path / "photos").mkdir()
    for number in range(3):
        (tmp_path / f"photos/{number}.jpg").write_bytes(picture_bytes(number, (64, 48)))
    counts = []
    for _ in range(2):
        assert collect(tmp_path / "photos", "--limit=2").returncode == 0
        counts.append(len(newest(tmp_path)))
    assert counts == [2, 1]


def test_a_run_that_was_killed_is_gone_on_with(collect, tmp_path, web):
    for number in range(6):
        web.pages[f"/{number}.jpg"] = (200, {"content-type": "image/jpeg"}, picture_bytes(number, (64, 48)))
    (tmp_path / "list.csv").write_text("\n".join(["url", *(f"{web.url}/{number}.jpg" for number in range(6))]))
    collected = tmp_path / "collected"
    command = [sys.executable, "-m", "scripts.collection.collect", "--out", str(collected), str(tmp_path / "list.csv")]
    slow = os.environ | {"SEEFOOD_COLLECT_PRIVATE": "true", "SEEFOOD_COLLECT_INTERVAL_S": "0.3"}
    with subprocess.Popen(command, cwd=ROOT, env=slow) as process:
        try:
            until(lambda: len(list(collected.glob("*/photos/*.jpg"))) >= 2, process=process)
        finally:
            process.send_signal(signal.SIGKILL)
    assert len(list(collected.glob(f"*/{PART}"))) == 1
    done = collect(tmp_path / "list.csv")
    assert done.returncode == 0, done.stderr
    assert "of an earlier run kept" in done.stderr
    (batch,) = finished(collected)
    assert [photo.origin[-5:] for photo in read_batch(batch)] == [f"{number}.jpg" for number in range(6)]
    assert not list(collected.rglob("*.part"))
    assert sum(path.endswith("1.jpg") for path in web.asked) <= 2


def test_captured_photos_come_with_answers_and_again_when_feedback_came(collect, tmp_path, monkeypatch):
    folder = tmp_path / "captured"
    for name, value in {"DIR": str(folder), "SHARE": "1", "BYTES": "1000000", "AGE_S": "1000"}.items():
        monkeypatch.setenv(f"SEEFOOD_CAPTURE_{name}", value)
    capture = Capture()
    for number in range(3):
        answer = {"predictions": [{"label": "pho"}], "model": "seefood", "version": "1.0.0", "labels": ["pho", "sushi"]}
        assert capture(picture_bytes(number, (64, 48)), f"id-{number}", answer)
    keep(folder, "id-1", "sushi")
    keep(folder, "id-2", None)
    assert collect(folder, "--reviewed").returncode == 0
    reviewed = {photo.id: photo for photo in newest(tmp_path)}
    assert {name: (photo.given, photo.feedback) for name, photo in reviewed.items()} == {
        "id-1": (True, "sushi"),
        "id-2": (True, None),
    }
    assert reviewed["id-1"].answer["predictions"] == [{"label": "pho"}]
    assert reviewed["id-1"].at == reviewed["id-1"].answer["at"]
    assert collect(f"captured:{folder}").returncode == 0
    assert [photo.id for photo in newest(tmp_path)] == ["id-0"]
    keep(folder, "id-0", "sushi")
    assert collect(folder, "--reviewed").returncode == 0
    assert [(photo.id, photo.feedback) for photo in newest(tmp_path)] == [("id-0", "sushi")]
    assert collect(folder, "--reviewed").stdout == "nothing new (3 looked at before)\n"
    (orphan := folder / "ab" / "1-ab.feedback").parent.mkdir(exist_ok=True)
    orphan.write_text('{"id": "gone", "label": "pho"}')
    assert "1 feedback whose photo is gone" in collect(folder).stderr
    orphan.unlink()
    with moto_server("us-east-1"):  # the same files on S3
        bucket.client.cache_clear()
        s3 = outside("s3")
        s3.create_bucket(Bucket="kept", CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
        for path in folder.rglob("*-*"):
            s3.put_object(Bucket="kept", Key=f"web/{path.relative_to(tmp_path)}", Body=path.read_bytes())
        s3.put_object(Bucket="kept", Key="photos/1.jpg", Body=picture_bytes(9, (64, 48)))
        (tmp_path / "collected" / NAME).rename(tmp_path / "other.jsonl")
        done = collect("s3://kept/web/captured", "--reviewed")
        assert done.returncode == 0, done.stderr
        assert sorted((photo.id, photo.feedback) for photo in newest(tmp_path)) == [
            ("id-0", "sushi"),
            ("id-1", "sushi"),
            ("id-2", None),
        ]
        assert collect("s3://kept/photos").returncode == 0
        assert [(photo.source, photo.origin) for photo in newest(tmp_path)] == [("s3", "s3://kept/photos/1.jpg")]
    bucket.client.cache_clear()


def test_a_photo_that_was_sent_twice_comes_once_with_its_last_feedback(collect, tmp_path, monkeypatch):
    folder = tmp_path / "captured"
    for name, value in {"DIR": str(folder), "SHARE": "1", "BYTES": "1000000", "AGE_S": "1000"}.items():
        monkeypatch.setenv(f"SEEFOOD_CAPTURE_{name}", value)
    capture, labels = Capture(), ["pho", "sushi"]
    for request_id in ("a", "b"):
        assert capture(picture_bytes(1, (64, 48)), request_id, {"model": "seefood", "version": "1.0.0", "labels": labels})
    keep(folder, "a", "pho")
    assert collect(folder).returncode == 0
    assert [(photo.id, photo.feedback) for photo in newest(tmp_path)] == [("a", "pho")]
    keep(folder, "b", "sushi")
    assert collect(folder).returncode == 0
    assert [(photo.id, photo.feedback) for photo in newest(tmp_path)] == [("b", "sushi")]
    assert collect(folder).stdout == "nothing new (2 looked at before)\n"


def test_a_captured_photo_waits_for_its_answer_unless_an_earlier_version_wrote_none(collect, tmp_path):
    place = tmp_path / "captured" / "ab"
    place.mkdir(parents=True)
    (place / "1-abcd.photo").write_bytes(picture_bytes(1, (64, 48)))
    (tmp_path / "captured" / "2-abcd.photo").write_bytes(picture_bytes(2, (64, 48)))
    done = collect(tmp_path / "captured")
    assert done.returncode == 0
    assert "without its answer yet" in done.stderr
    assert [photo.origin[-12:] for photo in newest(tmp_path)] == ["2-abcd.photo"]
    (place / "1-abcd.json").write_text('{"id": "a", "at": "2026-11-27T10:00:00+00:00"}')
    assert collect(tmp_path / "captured").returncode == 0
    assert [photo.id for photo in newest(tmp_path)] == ["a"]


def test_of_captured_photos_of_several_models_one_models_are_taken(collect, tmp_path):
    place = tmp_path / "captured" / "ab"
    place.mkdir(parents=True)
    for number, model in enumerate(("seefood", "flowers", "seefood")):
        (place / f"{number}-ab.photo").write_bytes(picture_bytes(number, (64, 48)))
        (place / f"{number}-ab.json").write_text(json.dumps({"id": f"{model}-{number}", "model": model}))
    done = collect(tmp_path / "captured")
    assert done.returncode == 1
    assert "captured, flowers (1), seefood (2): MODEL=flowers takes those of one" in done.stderr
    assert not list((tmp_path / "collected").glob("*/*"))
    done = collect(tmp_path / "captured", "--model=seefood")
    assert done.returncode == 0
    assert "1 answered by flowers" in done.stderr
    assert [photo.id for photo in newest(tmp_path)] == ["seefood-0", "seefood-2"]
    assert collect(tmp_path / "captured", "--model=flowers").returncode == 0
    assert [photo.id for photo in newest(tmp_path)] == ["flowers-1"]
    assert "MODEL is for captured photos" in collect("nowhere", "--model=seefood").stderr


@pytest.mark.parametrize("reviewed", [(), ("--reviewed",)])
def test_feedback_whose_photo_is_gone_is_counted(collect, tmp_path, reviewed):
    place = tmp_path / "captured" / "ab"
    place.mkdir(parents=True)
    (place / "1-abcd.feedback").write_text('{"id": "a", "label": "soup"}')
    (place / "2-abcd.feedback").write_text('{"id": "b", "label": "soup"}')
    (place / "2-abcd.json").write_text('{"id": "b", "at": "2026-11-27T10:00:00+00:00"}')
    (place / "3-abcd.json").write_text('{"id": "c", "at": "2026-11-27T10:00:00+00:00"}')
    done = collect(tmp_path / "captured", *reviewed)
    assert (done.returncode, done.stdout) == (0, "nothing new\n")
    assert "2 feedback whose photo is gone" in done.stderr


def test_the_sources_example_of_the_readme_works(tmp_path):
    text = (ROOT / "scripts/collection/README.md").read_text(encoding="utf-8")
    scope = {"Counter": Counter, "Iterator": Iterator, "partial": partial, "Any": Any, "json": json, "Path": Path}
    scope |= {"Found": Found, "Fetched": Fetched, "Web": Web, "clean_title": clean_title}
    exec(re.search(r"```python\n(.*?)```", text, re.DOTALL)[1], scope)  # the example is the test

    class Photos:
        def photo(self, address):
            return address.encode()

    (tmp_path / "feed").write_text('{"photo": "a.jpg", "text": "Ramen"}\n{"text": "Hello"}\n')
    passed = Counter()
    (found,) = scope["Feed"](str(tmp_path / "feed"), Photos()).found(passed)
    assert (found.origin, found.fetch(), passed) == ("a.jpg", Fetched(b"a.jpg", title="Ramen"), {"post without a photo": 1})


def test_a_line_that_was_cut_off_is_looked_at_again(collect, photos, tmp_path):
    collect(photos)
    seen = tmp_path / "collected" / NAME
    seen.write_bytes(seen.read_bytes()[:-20])
    done = collect(photos)
    assert "looked at before" in done.stdout
    assert len(finished(tmp_path / "collected")) == 1
    assert [json.loads(line)["from"] for line in seen.read_text().splitlines()][-1] == str(photos / "twice.jpg")


def test_two_runs_at_a_time_are_refused(collect, photos, tmp_path):
    with Seen(tmp_path / "collected"):
        done = collect(photos)
    assert (done.returncode, done.stdout) == (1, "")
    assert "another run collects into" in done.stderr


def test_a_full_disk_leaves_nothing_half_written(collect, tmp_path, mount_disk):
    (tmp_path / "photos").mkdir()
    for number in range(8):
        noise = Image.frombytes("RGB", (100, 100), os.urandom(30_000))
        noise.save(tmp_path / f"photos/{number}.png")
    disk = mount_disk(tmp_path / "collected", "200k")
    done = collect(tmp_path / "photos")
    assert done.returncode == 1
    assert "the disk is full" in done.stderr
    kept = list(disk.glob("*/photos/*"))
    assert 0 < len(kept) < 8
    assert all(Image.open(path).getpixel((99, 99)) for path in kept)
    assert not list(disk.glob("*/photos/*.part"))
    subprocess.run(["mount", "-o", "remount,size=4m", str(disk)], check=True)
    assert collect(tmp_path / "photos").returncode == 0
    assert len(newest(tmp_path)) == 8


@pytest.mark.slow
def test_labels_written_beside_a_batch_are_ingested(collect, generated, tmp_path):
    assert collect(generated, "--limit=60").returncode == 0
    (batch,) = finished(tmp_path / "collected")
    rows = [f"{photo.photo},{Path(photo.origin).parent.name}" for photo in read_batch(batch)]
    (batch / "labels.csv").write_text("\n".join(["path,label", *rows]))
    command = [sys.executable, "-m", "training.data.ingest", "--data=food", f"--params={ROOT / 'params.yaml'}", "--new-classes"]
    there = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, str(batch / "labels.csv")], cwd=tmp_path, env=there, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert " photos added, 0 present already" in done.stdout


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere", "SOURCE names 'nowhere', expected a folder or s3://bucket/prefix"),
        ("no.csv", "SOURCE names 'no.csv', expected a CSV with a column 'url': there is no such file"),
        ("captured", "SOURCE is captured: which photos? SOURCE=captured:FOLDER, or SEEFOOD_CAPTURE_DIR in the environment"),
        ("reddit:food", "Reddit needs REDDIT_CLIENT_ID and REDDIT_CLIENT_SECRET in the environment"),
        ("reddit:../x", "SOURCE names the subreddit '../x'"),
    ],
)
def test_a_source_that_is_none_is_named(collect, source, message, tmp_path):
    done = collect(source)
    assert (done.returncode, done.stdout) == (1, "")
    assert message in done.stderr
    assert not (tmp_path / "collected").exists()


def test_a_title_is_one_line_without_hidden_characters():
    assert clean_title(" Su\tshi\n\u202e &amp; \x00 u\u0308 ") == "Su shi &amp; ü"
    assert (clean_title("\u200b \n"), clean_title(None), len(clean_title("x" * 999))) == (None, None, 300)
