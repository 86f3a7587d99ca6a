"""An archive that is damaged is refused, by the name of what is wrong."""

import json
import re
import shutil
import sys

import pytest

from handler.parts import checksums
from scripts.archive.inspect import main as inspect_command
from scripts.archive.pack import pack
from scripts.archive.read import load_handler, unpack
from scripts.atomic import write_json
from scripts.command import run


def test_inspect_shows_the_json_beside_it_and_fails_where_there_is_no_archive(archive, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["inspect.py", str(archive)])
    assert run(inspect_command) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(archive.with_suffix(".json").read_text())
    monkeypatch.setattr(sys, "argv", ["inspect.py", str(tmp_path / "seefood-1.0.0.mar")])
    assert run(inspect_command) == 1
    assert f"error: there is no archive {tmp_path}/seefood-1.0.0.mar" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        ("changed", "model.onnx was changed"),
        ("missing", "golden.json is missing"),
        ("foreign", "handler/extra.py is unexpected"),
        ("all", "golden.json is missing, handler/extra.py is unexpected, model.onnx was changed"),
        ("unknown", "provenance.json cannot be read"),
        ("[]", "provenance.json cannot be read"),
        ('{"parts": []}', "provenance.json cannot be read"),
    ],
)
def test_part_that_is_not_what_was_packed_is_refused_by_name_before_and_in_the_worker(unpacked, tmp_path_factory, damage, reason):
    if damage in ("changed", "all"):
        content = bytearray((unpacked / "model.onnx").read_bytes())
        content[len(content) // 2] ^= 1
        (unpacked / "model.onnx").write_bytes(content)
    if damage in ("missing", "all"):
        (unpacked / "golden.json").unlink()
    if damage in ("foreign", "all"):
        (unpacked / "handler" / "extra.py").touch()
    if damage == "unknown":
        (unpacked / "provenance.json").unlink()
    if "[]" in damage:
        (unpacked / "provenance.json").write_text(damage)
    folder = tmp_path_factory.mktemp("damaged")
    pack(unpacked, folder / "seefood-1.0.0.mar")
    with pytest.raises(ValueError, match=rf"seefood-1\.0\.0\.mar: .*{re.escape(reason)}"):
        unpack(folder / "seefood-1.0.0.mar", folder / "unpacked")
    assert [path.name for path in folder.iterdir()] == ["seefood-1.0.0.mar"]
    with pytest.raises(ValueError, match=re.escape(reason)):
        load_handler(unpacked)


@pytest.mark.parametrize("share", [0, 0.001, 0.5, 0.999])
def test_archive_that_broke_off_is_called_damaged_and_leaves_no_folder(archive, tmp_path, share):
    broken = tmp_path / "seefood-1.0.0.mar"
    broken.write_bytes(archive.read_bytes()[: int(share * archive.stat().st_size)])
    with pytest.raises(ValueError, match=r"seefood-1\.0\.0\.mar is damaged: "):
        unpack(broken, tmp_path / "unpacked")
    assert list(tmp_path.iterdir()) == [broken]


def test_damage_anywhere_in_an_archives_directory_is_a_value_error(tmp_path):
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "a.txt").write_text("a")
    write_json(tmp_path / "parts" / "provenance.json", {"parts": checksums(tmp_path / "parts")})
    pack(tmp_path / "parts", tmp_path / "whole.mar")
    whole, refused = (tmp_path / "whole.mar").read_bytes(), 0
    for place in range(whole.index(b"PK\1\2"), len(whole)):
        for bits in (1, 4, 32, 64, 255):
            (tmp_path / "broken.mar").write_bytes(whole[:place] + bytes([whole[place] ^ bits]) + whole[place + 1 :])
            try:
                unpack(tmp_path / "broken.mar", tmp_path / "unpacked")
            except ValueError:
                assert not (tmp_path / "unpacked").exists()
                refused += 1
            else:  # of no consequence, such as a date or a mode
                assert checksums(tmp_path / "unpacked") == checksums(tmp_path / "parts")
                shutil.rmtree(tmp_path / "unpacked")
    assert refused > 0


def test_folder_that_was_there_is_replaced_only_by_a_whole_archive(archive, tmp_path):
    provenance = unpack(archive, tmp_path / "unpacked")
    assert provenance == json.loads((tmp_path / "unpacked" / "provenance.json").read_text())
    (tmp_path / "broken.mar").write_bytes(archive.read_bytes()[:-100])
    with pytest.raises(ValueError, match="damaged"):
        unpack(tmp_path / "broken.mar", tmp_path / "unpacked")
    assert (tmp_path / "unpacked" / "model.onnx").is_file()
