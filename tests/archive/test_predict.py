"""Photos without a server."""

import json
import shutil
import subprocess
import sys


def test_predict_writes_a_row_for_each_file_and_an_error_where_it_is_not_a_photo(archive, tmp_path, generated):
    photos = tmp_path / "photos"
    first, *_ = sorted(generated.iterdir())
    shutil.copytree(first, photos)
    (photos / "notes.txt").write_text("not a photo")
    command = [sys.executable, "-m", "scripts.archive.predict", str(photos), "--model-store", str(archive.parent), "--out"]
    for name in ("labels.csv", "labels.jsonl"):
        subprocess.run([*command, str(tmp_path / name)], check=True, capture_output=True)
    rows = [json.loads(line) for line in (tmp_path / "labels.jsonl").read_text().splitlines()]
    assert len(rows) == 31
    assert len((tmp_path / "labels.csv").read_text().splitlines()) == 32
    assert [row["type"] for row in rows if "code" in row] == ["PhotoError"]
    assert sum(row["predictions"][0]["label"] == first.name for row in rows if "predictions" in row) > 20
