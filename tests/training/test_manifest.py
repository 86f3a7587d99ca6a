"""One list of photos as a data set: DATA=photos.csv, or Parquet."""

import pandas  # type: ignore[import-untyped]
import pytest

from tests.conftest import ROOT
from training.data.ingest import main as ingest
from training.data.sets import read_data, write_prepared


@pytest.fixture
def manifest(tmp_path, generated):
    """manifest(name, rows=None): a list in a folder beside the generated pictures, of (path, label) or all of them."""

    def write(name, rows=None, **columns):
        path = tmp_path / "lists" / name
        path.parent.mkdir(exist_ok=True)
        rows = rows or [(str(photo), photo.parent.name) for photo in sorted(generated.rglob("*.jpg"))]
        table = pandas.DataFrame(rows, columns=["path", "label"]).assign(**columns)
        table.to_parquet(path) if path.suffix == ".parquet" else table.to_csv(path, index=False)
        return path

    return write


@pytest.mark.parametrize("name", ["photos.csv", "photos.parquet"])
def test_list_is_the_data_set_that_its_class_folders_are(manifest, generated, name):
    listed, folders = (read_data(root, 0.2, 0, cache=None) for root in (manifest(name), generated))
    assert listed.fingerprint == folders.fingerprint
    assert [photo.sha256 for photo in listed.train] == [photo.sha256 for photo in folders.train]
    assert listed.source == f"the list {name} in lists"


def test_column_of_splits_is_kept(manifest, generated):
    photos = sorted(generated.rglob("*.jpg"))
    path = manifest("photos.parquet", split=["val" if number % 3 == 0 else "train" for number in range(len(photos))])
    assert {photo.split for photo in read_data(path, 0.2, 0, cache=None).held_out} == {"val"}


def test_prepared_list_is_read_again_with_its_photos(manifest, tmp_path):
    data = read_data(manifest("photos.csv"), 0.2, 0, cache=None)
    write_prepared(data, 0.2, 0, tmp_path / "split.json")
    again = read_data(tmp_path / "split.json", 0.2, 0)
    for one, other in ((again.train, data.train), (again.held_out, data.held_out)):
        assert [(photo.sha256, photo.index) for photo in one] == [(photo.sha256, photo.index) for photo in other]
    assert again.root == data.root
    assert all(photo.path.is_file() for photo in again.train)


def test_hashes_of_a_lists_photos_are_kept(manifest, tmp_path):
    path = manifest("photos.csv")
    first = read_data(path, 0.2, 0, cache=tmp_path / "cache")
    assert read_data(path, 0.2, 0, cache=tmp_path / "cache") == first


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([("a.jpg", "pie"), ("b.jpg", "soup")], "no column with names of photos|no photo .*a.jpg"),
        (None, ""),
    ],
)
def test_list_without_photos_is_refused_with_the_place_where_they_were_expected(manifest, generated, rows, said):
    if rows is None:
        photos = sorted(generated.rglob("*.jpg"))[:4]
        rows, said = [(str(photo), "pie") for photo in photos], "lists photos of 1 class to train on, expected at least 2"
    with pytest.raises(ValueError, match=said):
        read_data(manifest("photos.csv", rows), 0.2, 0, cache=None)


def test_list_that_is_missing_or_no_parquet_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no list .*gone.csv"):
        read_data(tmp_path / "gone.csv", 0.2, 0, cache=None)
    (tmp_path / "a.parquet").write_text("path,label\n")
    with pytest.raises(ValueError, match="a.parquet is no Parquet file"):
        read_data(tmp_path / "a.parquet", 0.2, 0, cache=None)


def test_ingest_takes_parquet(manifest, tmp_path, generated, monkeypatch, capsys):
    photos = [path for label in ("class_0", "class_1") for path in sorted((generated / label).iterdir())[:8]]
    path = manifest("new.parquet", [(str(photo), photo.parent.name) for photo in photos])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["ingest", "--data", "food", "--new-classes", "--params", str(ROOT / "params.yaml"), str(path)])
    assert not ingest()
    assert {path.parent.name for path in (tmp_path / "food").rglob("*.jpg")} == {"class_0", "class_1"}, capsys.readouterr()
