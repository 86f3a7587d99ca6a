"""Rows as a table: CSV, JSON lines, Parquet. In memory are a few thousand of them at most."""

import csv
import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

Rows = Iterator[dict[str, Any]]

COLUMNS = ("photo", "label", "probability", "sure", "others", "error", "model", "version")
# a cell that begins like this is a formula to spreadsheets (OWASP, CSV injection), and a photo's name may be anything
FORMULA = tuple("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20")
GROUP = 10_000  # rows of a Parquet file that are in memory


def cell(text: str) -> str:
    """A text that no spreadsheet computes: with an apostrophe before it if it looks like a formula."""
    return f"'{text}" if text.startswith(FORMULA) or text.lstrip().startswith(FORMULA) else text


def cells(row: Mapping[str, Any]) -> list[str]:
    """A row's cells, in the order of COLUMNS."""
    if "predictions" not in row:
        return [cell(row["photo"]), "", "", "", "", cell(row["message"]), "", ""]
    best, *others = row["predictions"]
    listed = "; ".join(f"{other['label']} {other['probability']:.3f}" for other in others)
    sure = str(row["sure"]).lower() if "sure" in row else ""
    versions = [cell(str(row.get(name, ""))) for name in ("model", "version")]
    return [cell(row["photo"]), cell(best["label"]), f"{best['probability']:.4f}", sure, cell(listed), "", *versions]


def write_csv(rows: Rows, out: TextIO) -> None:
    """A header and a line for each row."""
    # a name with a semicolon is one cell also where a spreadsheet takes that for the separator
    writer = csv.writer(out, quoting=csv.QUOTE_ALL)
    writer.writerow(COLUMNS)
    writer.writerows(map(cells, rows))


def _csv_file(rows: Rows, path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="") as out:
        write_csv(rows, out)


def _json_lines_file(rows: Rows, path: Path) -> None:
    """One JSON object a line: the photo's name and the server's answer for it."""
    with path.open("w", encoding="utf-8", errors="replace") as out:
        for row in rows:
            out.write(json.dumps(row, ensure_ascii=False) + "\n")


def _parquet_file(rows: Rows, path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    text = pyarrow.string()
    other = pyarrow.struct([("label", text), ("probability", pyarrow.float64())])
    kinds = (text, text, pyarrow.float64(), pyarrow.bool_(), pyarrow.list_(other), text, text, text)
    schema = pyarrow.schema(list(zip(COLUMNS, kinds, strict=True)))
    with pyarrow.parquet.ParquetWriter(path, schema) as writer:
        while group := list(itertools.islice(rows, GROUP)):
            writer.write_table(pyarrow.Table.from_pylist(list(map(_typed, group)), schema=schema))


def _typed(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row with the columns' own types; what it has not is null."""
    if "predictions" not in row:
        return {"photo": row["photo"], "error": row["message"]}
    best, *others = row["predictions"]
    kept = [{"label": other["label"], "probability": other["probability"]} for other in others]
    answered = {"photo": row["photo"], "label": best["label"], "probability": best["probability"], "others": kept}
    return answered | {name: row.get(name) for name in ("sure", "model", "version")}


FORMATS: dict[str, tuple[Callable[[Rows, Path], None], str]] = {
    ".csv": (_csv_file, "text/csv; charset=utf-8"),
    ".jsonl": (_json_lines_file, "application/x-ndjson"),
    ".parquet": (_parquet_file, "application/vnd.apache.parquet"),
}
