"""The format of a batch: written, killed, gone on with, read."""

import json
import stat

import pytest

from scripts.collection.batch import LINES, PART, Batch, BatchError, finished, read_batch, unfinished

ABOUT = {"source": "folder", "address": "/photos"}
WHEN = "2026-11-27T10:00:00+00:00"


def test_a_batch_is_read_as_it_was_written(tmp_path):
    batch = Batch.open(tmp_path / "collected", ABOUT)
    batch.add(b"one", ".jpg", origin="a.jpg", at=WHEN, title="Sushi ü\n\u2028")
    batch.add(b"two", ".png", origin="b", at=WHEN, id="7", answer={"predictions": [{"label": "pho"}]}, feedback=None, given=True)
    batch.finish()
    (folder,) = finished(tmp_path / "collected")
    assert folder.name.endswith("-folder")
    assert read_batch(folder) == batch.photos
    assert [(folder / photo.photo).read_bytes() for photo in read_batch(folder)] == [b"one", b"two"]
    assert set(json.loads((folder / LINES).read_text().splitlines()[1])) == {
        *("photo", "source", "from", "at", "title", "id", "answer", "feedback", "given")
    }
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_two_batches_of_a_day_have_two_names_in_their_order(tmp_path):
    for number in range(11):
        batch = Batch.open(tmp_path, ABOUT)
        batch.add(b"%d" % number, ".jpg", origin=str(number), at=WHEN)
        batch.finish()
    assert [read_batch(folder)[0].origin for folder in finished(tmp_path)] == [str(number) for number in range(11)]


def test_an_unfinished_batch_is_gone_on_with_by_the_same_source_alone(tmp_path):
    batch = Batch.open(tmp_path, ABOUT)
    batch.add(b"1", ".jpg", origin="1", at=WHEN)
    with pytest.raises(BatchError, match="is not finished: the same make collect goes on"):
        read_batch(batch.folder)
    other = Batch.open(tmp_path, {**ABOUT, "address": "/others"})
    assert (other.folder != batch.folder, other.photos) == (True, [])
    again = Batch.open(tmp_path, ABOUT)
    assert (again.folder, again.photos) == (batch.folder, batch.photos)
    assert list(unfinished(tmp_path)) == batch.photos
    again.add(b"2", ".jpg", origin="2", at=WHEN)
    again.finish()
    assert [photo.origin for photo in read_batch(again.folder)] == ["1", "2"]
    assert not (again.folder / PART).exists()


def test_cut_off_anywhere_a_batch_goes_on(tmp_path):
    whole = Batch.open(tmp_path / "whole", ABOUT)
    for number in range(2):
        whole.add(b"%d" % number, ".jpg", origin=str(number), at=WHEN)
    text = (whole.folder / PART).read_bytes()
    for length in range(0, len(text) + 1, 23):
        folder = tmp_path / f"{length}" / whole.folder.name
        folder.mkdir(parents=True)
        (folder / PART).write_bytes(text[:length] + b"\0" * (length % 3))
        batch = Batch.open(folder.parent, ABOUT)
        kept = [photo.origin for photo in batch.photos]
        assert (batch.folder, kept) == (folder, ["0", "1"][: len(kept)])
        batch.add(b"new", ".jpg", origin="new", at=WHEN)
        batch.finish()
        assert [photo.origin for photo in read_batch(folder)] == [*kept, "new"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"photo": "../../etc/passwd"}, "line 1: 'photo' is '../../etc/passwd', expected a path in the batch's folder"),
        ({"photo": "/etc/passwd"}, "expected a path in"),
        ({"given": 1}, "line 1: 'given' is 1"),
        ({"extra": 1}, "line 1: expected an object with the keys photo, source, from"),
    ],
)
def test_a_line_that_is_none_is_named(tmp_path, change, message):
    batch = Batch.open(tmp_path, ABOUT)
    line = json.loads(batch.add(b"1", ".jpg", origin="1", at=WHEN).line())
    (batch.folder / LINES).write_text(json.dumps(line | change))
    with pytest.raises(BatchError, match=message):
        read_batch(batch.folder)


def test_without_photos_there_is_no_batch(tmp_path):
    Batch.open(tmp_path, ABOUT).finish()
    assert (list(tmp_path.iterdir()), finished(tmp_path), finished(tmp_path / "none")) == ([], [], [])
    with pytest.raises(BatchError, match="is no batch: it has no batch.jsonl"):
        read_batch(tmp_path)
