"""Which archive is meant: names, versions and their order."""

import random
from pathlib import Path

import pytest

from scripts.archive.build import build
from scripts.archive.name import archive_name, choose_archive, find_archives, precedence, split_name

REFUSED = [
    "",
    "1.0",
    "v1.0.0",
    "latest",
    "01.0.0",
    "1.0.0-01",
    "1.0.0-",
    "1.0.0-a..b",
    "1.0.0+build",
    "../1.0.0",
    "1.0.0/..",
    "1.0.0\n",
]


@pytest.mark.parametrize("version", REFUSED)
def test_version_that_is_not_a_semantic_one_is_refused(exported, tmp_path, version):
    with pytest.raises(ValueError, match="expected a semantic version such as 1.0.0 or 1.1.0-rc.1"):
        build(exported, version, tmp_path)
    assert not list(tmp_path.iterdir())


def test_versions_precede_each_other_as_semver_says():
    # semver.org, 11.4, and what comes to mind
    ordered = ["1.0.0-alpha", "1.0.0-alpha.1", "1.0.0-alpha.beta", "1.0.0-beta", "1.0.0-beta.2", "1.0.0-beta.11", "1.0.0-rc.1"]
    ordered += ["1.0.0", "1.1.0-rc.2", "1.1.0-rc.10", "1.1.0-rc.10.1", "1.1.0-rc-1", "1.1.0", "1.2.0", "1.10.0", "2.0.0-0", "2.0.0"]
    assert sorted(random.Random(0).sample(ordered, len(ordered)), key=precedence) == ordered
    assert [archive_name("seefood", version) for version in ordered] == [f"seefood-{version}.mar" for version in ordered]


def test_newest_archive_is_found_by_precedence_not_by_letter(tmp_path):
    for version in ("1.9.0", "1.10.0", "0.1.0", "1.10.0-rc.2", "1.10.0-rc.10"):
        (tmp_path / f"seefood-{version}.mar").touch()
    for stranger in ("seefood-backup.mar", "seefood-01.0.0.mar", "seefood-2.0.0+x.mar"):
        (tmp_path / stranger).touch()
    ordered = ["0.1.0", "1.9.0", "1.10.0-rc.2", "1.10.0-rc.10", "1.10.0"]
    assert [path.name for path in find_archives(tmp_path)] == [f"seefood-{version}.mar" for version in ordered]
    assert choose_archive(tmp_path, None).name == "seefood-1.10.0.mar"
    assert choose_archive(tmp_path, "1.10.0-rc.2").name == "seefood-1.10.0-rc.2.mar"
    with pytest.raises(ValueError, match=r"no archive 1\.0\.0 in .*make archive VERSION=1\.0\.0 builds one"):
        choose_archive(tmp_path, "1.0.0")


@pytest.mark.parametrize(
    "model", ["", "Flowers", "1flower", "-flowers", "flo wers", "flo.wers", "../flowers", "flo/wers", "flowers\n", "blumé"]
)
def test_name_that_is_not_safe_in_files_and_addresses_is_refused(exported, tmp_path, model):
    with pytest.raises(ValueError, match="expected lower-case letters, digits, _ and -, a letter first, e.g. flowers"):
        archive_name(model, "1.0.0")
    if model:  # an empty one would be no --model at all
        with pytest.raises(ValueError, match="model name is"):
            build(exported, "1.0.0", tmp_path, model=model)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("model", ["a", "flowers", "flo-wers_2", "flowers-1", "extra-"])
@pytest.mark.parametrize("version", ["1.0.0", "10.20.30", "1.0.0-rc.1", "1.0.0-2.0.0", "1.0.0-a-1.0"])
def test_name_is_split_into_what_it_was_made_of(model, version):
    assert split_name(Path("store") / archive_name(model, version)) == (model, version)


@pytest.mark.parametrize(
    "name", ["flowers.mar", "flowers-1.0.mar", "Flowers-1.0.0.mar", "1.0.0.mar", "flowers-1.0.0.zip", "flowers-01.0.0.mar"]
)
def test_name_of_another_kind_is_not_an_archives(name):
    with pytest.raises(ValueError, match=r"is not an archive's name, expected MODEL-VERSION\.mar"):
        split_name(Path(name))


def test_only_model_of_a_store_is_meant_and_of_several_one_is_asked_for(tmp_path):
    for name in ("flowers-1.0.0.mar", "flowers-1.1.0.mar"):
        (tmp_path / name).touch()
    assert choose_archive(tmp_path, None).name == "flowers-1.1.0.mar"
    (tmp_path / "seefood-2.0.0.mar").touch()
    assert choose_archive(tmp_path, None, "flowers").name == "flowers-1.1.0.mar"
    assert choose_archive(tmp_path, "1.0.0", "flowers").name == "flowers-1.0.0.mar"
    assert [path.name for path in find_archives(tmp_path, "flowers")] == ["flowers-1.0.0.mar", "flowers-1.1.0.mar"]
    for version in (None, "2.0.0"):
        with pytest.raises(ValueError, match=r"holds the models flowers, seefood: choose one, e\.g\. MODEL=flowers"):
            choose_archive(tmp_path, version)
    with pytest.raises(
        ValueError, match=r"no archive of flowers 2\.0\.0 in .*'seefood-2\.0\.0\.mar'.*MODEL=flowers VERSION=2\.0\.0"
    ):
        choose_archive(tmp_path, "2.0.0", "flowers")
    with pytest.raises(ValueError, match="model name is 'Flowers'"):
        choose_archive(tmp_path, None, "Flowers")
