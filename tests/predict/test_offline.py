"""Answers of an archive in this process."""

import pytest

from scripts.archive.read import unpack
from scripts.predict.offline import Offline
from scripts.predict.photo import LocalPhoto
from tests.conftest import modules_of_a_worker, picture_bytes


@pytest.mark.parametrize("mirrored", [False, True])
def test_answer_does_not_depend_on_the_photos_of_its_batch(packed, tmp_path, mirrored):
    unpack(packed / "seefood-1.0.0.mar", tmp_path / "unpacked")
    photos, sizes = [LocalPhoto(tmp_path / f"{i}.jpg") for i in range(11)], []
    for i, photo in enumerate(photos):
        photo.path.write_bytes(picture_bytes(i))
    photos[3].path.write_text("no photo, so its batch has one crop less")
    with modules_of_a_worker():
        offline = Offline(tmp_path / "unpacked", mirrored)
        infer = offline.handler.inference
        offline.handler.inference = lambda crops, *texts: sizes.append(len(crops)) or infer(crops, *texts)
        together = list(offline.answers(iter(photos)))
        alone = [row for photo in photos for row in offline.answers(iter([photo]))]
    assert ["code" in row for row in together] == [False] * 3 + [True] + [False] * 7
    assert [row.get("predictions") for row in together] == [row.get("predictions") for row in alone]
    assert set(sizes) == {offline.batch_size} == {8}
