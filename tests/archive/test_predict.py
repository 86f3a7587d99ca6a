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
    for name in (".DS_Store", "._000.jpg", "Thumbs.db", "@eaDir/000.jpg", "__MACOSX/000.jpg", ".git/000.jpg"):
        (photos / name).parent.mkdir(exist_ok=True)
        (photos / name).write_text("a leftover")
    (photos / "up").symlink_to(photos)
    (photos / "gone.jpg").symlink_to("nowhere")
    command = [sys.executable, "-m", "scripts.archive.predict", str(photos), "--model-store", str(archive.parent), "--out"]
    for name in ("labels.csv", "labels.jsonl"):
        done = subprocess.run([*command, str(tmp_path / name)], check=True, capture_output=True, text=True)
        assert f"not taken: 5 files and 3 folders of {photos}: 1 " in done.stderr
    rows = [json.loads(line) for line in (tmp_path / "labels.jsonl").read_text().splitlines()]
    assert len(rows) == 31
    assert len((tmp_path / "labels.csv").read_text().splitlines()) == 32
    assert [row["type"] for row in rows if "code" in row] == ["PhotoError"]
    assert sum(row["predictions"][0]["label"] == first.name for row in rows if "predictions" in row) > 20
