"""The part file: what is kept of an earlier run, and what is not."""

import json
from itertools import chain

import pytest

from scripts.predict.journal import Journal
from scripts.predict.photo import LocalPhoto, PredictError

ABOUT = {"photos": "/photos", "by": {"archive": "a-1.0.0.mar", "sha256": "1"}}


@pytest.fixture
def photos(tmp_path):
    paths = [tmp_path / f"{name}.jpg" for name in "abcd"]
    for path in paths:
        path.write_bytes(b"photo")
    return [LocalPhoto(path) for path in paths]


def row(photo):
    return {"photo": photo.name, "stamp": photo.stamp(), "message": "none"}


def go_on(path, photos, label, about=ABOUT):
    """(names of kept rows, of all rows at the end, why rows are made anew) of a run that labels so many photos."""
    kept = []
    with Journal(path, about) as journal:
        rest = journal.go_on(iter(photos), lambda row: kept.append(row["photo"][-5]))
        for _, photo in zip(range(label), rest, strict=False):
            journal.append(row(photo))
        return "".join(kept), "".join(row["photo"][-5] for row in journal.rows()), journal.anew


@pytest.fixture
def part(tmp_path, photos):
    """The part file of a run that was ended after three photos."""
    path = tmp_path / "out.csv.part"
    assert go_on(path, photos, 3) == ("", "abc", "")
    return path


def test_a_run_goes_on_behind_the_last_row(part, photos):
    assert go_on(part, photos, 9) == ("abc", "abcd", "")


@pytest.mark.parametrize("cut", range(1, 40))
def test_a_row_that_was_cut_off_anywhere_is_made_again(part, photos, cut):
    part.write_bytes(part.read_bytes()[:-cut])
    assert go_on(part, photos, 9) == ("ab", "abcd", "")


def test_a_first_line_that_was_cut_off_starts_anew(part, photos):
    first = part.read_bytes().partition(b"\n")[0]
    for line in (first[:0], first[:5], first[:20], first, bytes(len(first))):
        part.write_bytes(line)
        assert go_on(part, photos, 9) == ("", "abcd", "")


def test_rows_behind_zeros_of_a_power_cut_are_made_again(part, photos):
    lines = part.read_bytes().splitlines(keepends=True)
    part.write_bytes(b"".join([*lines[:2], bytes(len(lines[2])), *lines[3:]]))
    assert go_on(part, photos, 9)[:2] == ("a", "abcd")


@pytest.mark.parametrize(
    ("about", "why"),
    [
        ({**ABOUT, "photos": "/others"}, "the earlier run had other photos: /photos, not /others"),
        (
            {**ABOUT, "by": {"archive": "a-1.0.0.mar", "sha256": "2"}},
            "the earlier run had another model: a-1.0.0.mar, 1, not a-1.0.0.mar, 2",
        ),
    ],
)
def test_a_run_about_something_else_starts_anew_and_says_so(part, photos, about, why):
    assert go_on(part, photos, 9, about) == ("", "abcd", why)


def test_rows_are_kept_up_to_the_first_photo_that_is_another_one_now(part, photos):
    photos[1].path.write_bytes(b"another photo")
    kept, rows, why = go_on(part, photos, 9)
    assert (kept, rows) == ("a", "abcd")
    assert why == f"{photos[1].name} has changed since"


def test_a_photo_that_was_added_or_removed_gets_its_place(part, photos, tmp_path):
    added = LocalPhoto(tmp_path / "bb.jpg".replace("bb", "x"))
    added.path.write_bytes(b"photo")
    kept, rows, why = go_on(part, list(chain(photos[:2], [added], photos[2:])), 9)
    assert (kept, rows) == ("ab", "abxcd")
    assert "stands where" in why
    kept, rows, why = go_on(part, photos[:1], 9)
    assert (kept, rows) == ("a", "a")
    assert "fewer photos" in why


def test_rows_are_there_until_another_run_has_its_first_answer(part, photos):
    before = part.read_bytes()
    with Journal(part, {**ABOUT, "photos": "/others"}) as journal:
        journal.go_on(iter(photos), print)
    assert part.read_bytes() == before


@pytest.mark.parametrize("content", [b"%PDF-1.7\n", b"half a downl", b'{"photo": "a"}\n', b"[1]\n", b"\n", b'{"format": 1, "pho\n'])
def test_a_file_of_another_program_is_refused_and_stays(tmp_path, photos, content):
    path = tmp_path / "labels.csv.part"
    path.write_bytes(content)
    with pytest.raises(PredictError, match="labels.csv.part is not of such a run: move it away, or choose another OUT"):
        go_on(path, photos, 9)
    assert path.read_bytes() == content


def test_two_runs_cannot_write_the_same_results(part):
    with Journal(part, ABOUT), pytest.raises(PredictError, match="another run writes these results"), Journal(part, ABOUT):
        pass
    with Journal(part, ABOUT):
        pass


def test_nothing_is_left_of_a_run_that_wrote_nothing(tmp_path):
    with pytest.raises(ValueError), Journal(tmp_path / "x.part", ABOUT):
        raise ValueError
    assert not (tmp_path / "x.part").exists()


def test_rows_stand_there_as_json_with_a_first_line_about_the_run(part):
    first, *rows = [json.loads(line) for line in part.read_text().splitlines()]
    assert first == {"format": 1, **ABOUT}
    assert [set(row) for row in rows] == [{"photo", "stamp", "message"}] * 3
