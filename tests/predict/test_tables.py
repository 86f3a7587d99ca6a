"""Tables, and what is said of a run: safe in spreadsheets, with a type for each column."""

import csv
import io

import pytest

from scripts.predict.progress import Progress, duration
from scripts.predict.summary import REASONS, Summary
from scripts.predict.tables import FORMATS, cell, write_csv
from tests.waiting import until


def answered(photo, label="ramen", version="1.0.0"):
    predictions = [{"label": label, "index": 0, "probability": 0.75}, {"label": "soup", "index": 1, "probability": 0.25}]
    return {"photo": photo, "predictions": predictions, "sure": True, "model": "food", "version": version}


def failed(photo, message):
    return {"photo": photo, "code": 422, "type": "PhotoError", "message": message}


@pytest.mark.parametrize("name", ["=cmd()", "+1", "-1", "@a", "\t=1", "\r=1", " =1", "\uff1d1"])
def test_a_name_that_looks_like_a_formula_is_a_text_in_csv(name):
    assert cell(name) == f"'{name}"


def test_csv_holds_any_name_in_one_row():
    rows = [answered('a,"b"\nc.jpg'), failed("=1.jpg", "-broken"), answered("ü.jpg", label="=x")]
    out = io.StringIO()
    write_csv(iter(rows), out)
    out.seek(0)
    read = list(csv.DictReader(out))
    assert [row["photo"] for row in read] == ['a,"b"\nc.jpg', "'=1.jpg", "ü.jpg"]
    assert [row["label"] for row in read] == ["ramen", "", "'=x"]
    assert read[0] | {"photo": ""} == {
        "photo": "",
        "label": "ramen",
        "probability": "0.7500",
        "sure": "true",
        "others": "soup 0.250",
        "error": "",
        "model": "food",
        "version": "1.0.0",
    }
    assert read[1]["error"] == "'-broken"


def test_a_name_with_a_semicolon_is_one_cell_also_where_that_is_the_separator():
    out = io.StringIO()
    write_csv(iter([failed("a;=HYPERLINK(1).jpg", "broken")]), out)
    assert next(csv.reader(io.StringIO(out.getvalue().splitlines()[1]), delimiter=";"))[0].startswith("a;=HYPERLINK(1).jpg")


def test_parquet_has_a_type_for_each_column_also_without_rows(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    write, _ = FORMATS[".parquet"]
    for rows in ([], [failed("a.jpg", "broken")], [failed("a.jpg", "broken"), answered("=b.jpg")]):
        write(iter(rows), tmp_path / "out.parquet")
        table = parquet.read_table(tmp_path / "out.parquet")
        assert [str(field.type) for field in table.schema] == [
            *("string", "string", "double", "bool", "list<element: struct<label: string, probability: double>>"),
            *("string", "string", "string"),
        ]
        assert table.column("photo").to_pylist() == [row["photo"] for row in rows]


def test_failures_are_counted_by_reason_with_the_first_names():
    summary = Summary()
    for number in range(5):
        summary.add(failed(f"{number}.jpg", f"the photo has {number + 3} pixels"))
    summary.add(failed("x\n.jpg", "broken"))
    summary.add(answered("b.jpg"))
    assert summary.failures().splitlines() == [
        "6 of 7 photos failed:",
        "  5: the photo has 3 pixels ('0.jpg', '1.jpg', '2.jpg' and 2 more)",
        "  1: broken ('x\\n.jpg')",
    ]
    assert summary.changed() == ""


def test_reasons_without_end_take_no_memory():
    summary = Summary()
    for number in range(1, 1001):
        summary.add(failed("a.jpg", "x" * number))
    assert len(summary.failures().splitlines()) == REASONS + 2
    assert "950: other reasons" in summary.failures()


def test_versions_that_changed_in_the_middle_are_said():
    summary = Summary()
    for version in ("1.0.0", "1.1.0", "1.1.0"):
        summary.add(answered("a.jpg", version=version))
    assert "food 1.1.0 (2 photos), food 1.0.0 (1 photo)" in summary.changed()


def test_progress_without_a_terminal_is_a_line_now_and_then(monkeypatch, capsys):
    monkeypatch.setattr("scripts.predict.progress.EVERY_S", 0.0)
    with Progress(lambda: 12, 10) as progress:
        until(lambda: progress.total is not None)
        progress.update()
        progress.update()
    first, last = capsys.readouterr().err.splitlines()
    assert first.startswith("11 of 12 photos, ")
    assert last.endswith("photos/s, 0 s left")
    assert [duration(seconds) for seconds in (40, 600, 12_000)] == ["40 s", "10 min", "3 h 20 min"]
