"""The command: folders, lists and S3 in, tables out, whatever ends it in between."""

import csv
import io
import json
import os
import random
import signal
import subprocess
import sys

import pyarrow.parquet
import pytest
from PIL import Image, ImageFilter, ImageOps

from scripts.command import run
from scripts.predict.predict import main
from tests.conftest import LIMIT_S, ROOT, picture_bytes
from tests.waiting import until


def rows_of(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def photos(tmp_path):
    """Photos, a file that is none, leftovers of other programs, and links that lead in a circle or nowhere."""
    folder = tmp_path / "photos"
    (folder / "b").mkdir(parents=True)
    for name in ("b.jpg", "b/a.jpg", "=cmd().jpg", "süß & <b>.jpg"):
        (folder / name).write_bytes(picture_bytes(len(name)))
    (folder / "notes.txt").write_text("not a photo")
    for name in (".DS_Store", "._000.jpg", "Thumbs.db", "@eaDir/000.jpg", "__MACOSX/000.jpg", ".git/000.jpg"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("a leftover")
    (folder / "up").symlink_to(folder)
    (folder / "gone.jpg").symlink_to("nowhere")
    return folder


def test_each_file_gets_a_row_in_order_and_failures_are_listed_with_their_reasons(predict, photos, tmp_path):
    out = tmp_path / "new folder" / "labels.csv"
    done = predict(photos, "--out", out, "--html")
    assert done.returncode == 3, done.stderr
    assert f"not taken: 5 files and 3 folders of {photos}: 1 " in done.stderr
    assert "1 of 5 photos failed:\n  1: not an image in a supported format; supported: JPEG" in done.stderr
    assert f"('{photos}/notes.txt')" in done.stderr
    rows = rows_of(out)
    assert list(rows[0]) == ["photo", "label", "probability", "sure", "others", "error", "model", "version"]
    names = ("=cmd().jpg", "b/a.jpg", "b.jpg", "notes.txt", "süß & <b>.jpg")
    written = [row["photo"] for row in rows]
    assert written == [f"{photos}/{name}" for name in names]
    assert [bool(row["label"]) for row in rows] == [True, True, True, False, True]
    assert {(row["sure"] in ("true", "false"), row["model"], row["version"]) for row in rows if row["label"]} == {
        (True, "seefood", "0.5.0")
    }
    assert sorted(path.name for path in out.parent.iterdir()) == ["labels.csv", "labels.html"]
    page = out.with_suffix(".html").read_text()
    assert page.count("<img ") == 4
    assert "süß &amp; &lt;b&gt;.jpg" in page
    assert "<b>.jpg" not in page
    assert "notes.txt" in page


@pytest.mark.slow
def test_json_lines_parquet_and_standard_output_hold_the_same_rows(predict, photos, tmp_path):
    for name in ("labels.jsonl", "labels.parquet", "labels.csv"):
        assert predict(photos, "--out", tmp_path / name).returncode == 3
    rows = [json.loads(line) for line in (tmp_path / "labels.jsonl").read_text().splitlines()]
    assert [row["type"] for row in rows if "code" in row] == ["PhotoError"]
    table = pyarrow.parquet.read_table(tmp_path / "labels.parquet").to_pylist()
    assert [row["photo"] for row in table] == [row["photo"] for row in rows]
    for row, answer in zip(table, rows, strict=True):
        if "predictions" in answer:
            best, *others = answer["predictions"]
            assert (row["label"], row["probability"], row["sure"], row["error"]) == (
                best["label"],
                best["probability"],
                answer["sure"],
                None,
            )
            assert [other["label"] for other in row["others"]] == [other["label"] for other in others]
        else:
            assert (row["label"], row["probability"], row["error"]) == (None, None, answer["message"])
    done = predict(photos)
    assert done.returncode == 3
    assert done.stdout == (tmp_path / "labels.csv").read_text()


@pytest.mark.slow
def test_photos_and_results_may_be_on_s3(predict, drawn, s3):
    for path in drawn.iterdir():
        s3.upload_file(str(path), "photos", f"in/{path.name}")
    done = predict("s3://photos/in", "--out", "s3://photos/out/labels.csv", "--html")
    assert done.returncode == 0, done.stderr
    table = s3.get_object(Bucket="photos", Key="out/labels.csv")
    rows = list(csv.DictReader(table["Body"].read().decode().splitlines()))
    assert [row["photo"] for row in rows] == [f"s3://photos/in/{number}.jpg" for number in range(10)]
    assert s3.get_object(Bucket="photos", Key="out/labels.html")["Body"].read().count(b"<img ") == 10
    assert not list((ROOT / "build" / "predict").glob("labels.csv-*"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere does not exist: PHOTOS is a photo, a folder, a list or s3://bucket/prefix"),
        (["http://host/a.jpg"], "expected a photo, a folder, a list or s3://bucket/prefix"),
        (["web", "--out", "labels.xlsx"], "OUT is labels.xlsx, expected a name that ends in .csv or .jsonl or .parquet"),
        (["web", "--out", "gs://bucket/labels.csv"], "OUT is gs://bucket/labels.csv, expected"),
        (["web", "--html"], "HTML=1 (--html) writes a page beside OUT"),
        (["web", "--out", "s3://labels.csv"], "the address is 's3://labels.csv', expected s3://bucket/key"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_done(monkeypatch, capsys, store, arguments, message):
    monkeypatch.setattr(sys, "argv", ["predict", *arguments, "--model-store", str(store)])
    try:
        status = run(main, "nothing was written")
    except SystemExit as error:  # argparse's
        status = error.code
    assert status in (1, 2)
    assert message in capsys.readouterr().err


def links(folder, photo, count):
    """So many names of one photo."""
    folder.mkdir()
    for number in range(count):
        os.link(photo, folder / f"{number:05}.jpg")
    return folder


def wait_for_bytes(part, count, process):
    """Wait until a command has written more than so many bytes of its results, and hardly longer."""

    def says():
        return process.poll() is not None and process.stderr.read()

    until(lambda: part.exists() and part.stat().st_size > count, says, process, pause_s=0.005)


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_loses_no_row_and_has_none_twice(predict, command, drawn, tmp_path):
    photos, out, rng = links(tmp_path / "photos", drawn / "1.jpg", 1500), tmp_path / "labels.csv", random.Random(1)
    part, kept = tmp_path / "labels.csv.part", 0
    for _ in range(3):
        with subprocess.Popen([*command, str(photos), "--out", str(out)], cwd=ROOT, stderr=subprocess.PIPE) as process:
            more = kept + rng.randrange(40_000)
            try:
                wait_for_bytes(part, more, process)
                refused = predict(photos, "--out", out) if not kept else None
            finally:
                process.kill()
        if refused:
            assert refused.returncode == 1
            assert "another run writes these results" in refused.stderr
        kept = part.stat().st_size
        assert not out.exists()
    with part.open("ab") as file:
        file.write(b'{"photo": "half a ro')
    done = predict(photos, "--out", out)
    assert done.returncode == 0, done.stderr
    assert "photos of an earlier run kept" in done.stderr
    assert [row["photo"] for row in rows_of(out)] == [f"{photos}/{number:05}.jpg" for number in range(1500)]
    assert {path.name for path in tmp_path.iterdir()} == {"photos", "labels.csv"}


@pytest.mark.slow
def test_ctrl_c_ends_with_one_sentence_that_says_how_to_go_on(command, drawn, tmp_path):
    photos, part = links(tmp_path / "photos", drawn / "1.jpg", 20_000), tmp_path / "labels.csv.part"
    with subprocess.Popen(
        [*command, str(photos), "--out", str(tmp_path / "labels.csv")], cwd=ROOT, stderr=subprocess.PIPE
    ) as process:
        wait_for_bytes(part, 10_000, process)
        process.send_signal(signal.SIGINT)
        error = process.communicate(timeout=LIMIT_S)[1].decode()
    assert process.returncode == 130
    assert error == "interrupted: the same command goes on where it stopped; without OUT it starts anew\n"
    assert part.read_bytes().endswith(b"\n")


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_photos(command, drawn, tmp_path):
    """A process's peak with 500 photos, and with eight times as many: rows, names and photos are not kept."""
    peaks = []
    for number, count in enumerate((500, 4000)):
        photos = links(tmp_path / str(number), drawn / "1.jpg", count)
        process = subprocess.Popen([*command, str(photos), "--out", str(tmp_path / f"{number}.csv")], cwd=ROOT)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0
        peaks.append(usage.ru_maxrss / 1024)
    # a kept row with its predictions would take some 3 kB
    assert peaks[1] - peaks[0] < 8, peaks


def test_test_time_augmentation_answers_a_photo_and_its_mirror_image_alike(predict, tmp_path):
    (tmp_path / "photos").mkdir()
    # not to the bit, as the crop's middle is half a pixel off: soft edges make little of that
    image = Image.open(io.BytesIO(picture_bytes(2))).convert("RGB").resize((224, 224)).filter(ImageFilter.GaussianBlur(4))
    image.save(tmp_path / "photos" / "a.png")
    ImageOps.mirror(image).save(tmp_path / "photos" / "b.png")
    plain, both = (tmp_path / f"{name}.jsonl" for name in ("plain", "both"))
    for out, options in ((plain, []), (both, ["--tta"])):
        done = predict(tmp_path / "photos", "--out", out, *options)
        assert done.returncode == 0, done.stderr

    def probabilities(out):
        rows = [json.loads(line)["predictions"] for line in out.read_text().splitlines()]
        return [{one["label"]: one["probability"] for one in row} for row in rows]

    first, second = probabilities(both)
    photo, mirror = probabilities(plain)
    common = first.keys() & second.keys() & photo.keys() & mirror.keys()
    apart = max(abs(photo[label] - mirror[label]) for label in common)
    assert max(abs(first[label] - second[label]) for label in common) < apart / 3
    best, other = (choose(common, key=first.__getitem__) for choose in (max, min))
    ratio = (photo[best] * mirror[best] / photo[other] / mirror[other]) ** 0.5  # the normalisation is the same for all classes
    assert first[best] / first[other] == pytest.approx(ratio, rel=0.2)


def test_test_time_augmentation_by_a_server_is_refused(predict, tmp_path):
    (tmp_path / "a.jpg").write_bytes(picture_bytes(1))
    out = tmp_path / "labels.csv"
    done = predict(tmp_path / "a.jpg", "--out", out, "--tta", "--url", "http://127.0.0.1:9")
    assert done.returncode == 2
    assert "TTA=1 (--tta) needs an archive here, and URL (--url) asks a server" in done.stderr
    assert not out.exists()
