"""What a server does while TorchServe starts: the document is read and the default version unpacked, once."""

import shutil

import pytest

from scripts.release.document import entry_of, make, write
from scripts.release.folder_store import FolderStore
from scripts.serving import served_model
from scripts.serving.desired import DesiredState
from scripts.serving.health import Health
from scripts.serving.instance import Instance
from scripts.settings import Settings
from scripts.steps import Steps
from tests.release.test_fetch import archive_of


@pytest.fixture
def instance(tmp_path):
    """That of a release of one small archive, without a TorchServe."""
    entry, store = entry_of(archive_of(tmp_path)), FolderStore(tmp_path / "store" / "release.json")
    document = make({"1.0.0": entry}, "1.0.0", "released", "a test")
    store.write(write(document), None)
    run_dir, settings, steps = tmp_path / "run", Settings(min_free_bytes=0), Steps(False)
    run_dir.mkdir()
    desired = DesiredState("one", store, run_dir, settings, steps)
    return Instance(desired, run_dir, Health(settings, steps), settings, steps)


def entry(model):
    return model.release["versions"]["1.0.0"]


def test_default_version_is_unpacked_before_torchserve_is_up_and_not_again_after_it(instance, monkeypatch):
    instance.prepare()
    (model,) = instance.released
    folder = next(iter((instance.run_dir / "unpacked").iterdir()))
    with monkeypatch.context() as patch:
        patch.setattr(served_model, "fetch", None)  # not called
        assert model._fetch("1.0.0", entry(model)) == folder
    (folder / "handler" / "a.py").write_text("changed\n")
    # TorchServe has had it: what another start gets is unpacked anew
    assert model._fetch("1.0.0", entry(model)) == folder
    assert (folder / "handler" / "a.py").read_text() == "answer = 42\n"


def test_what_was_unpacked_of_another_archive_or_is_gone_is_not_used(instance):
    instance.prepare()
    (model,) = instance.released
    folder = next(iter((instance.run_dir / "unpacked").iterdir()))
    shutil.rmtree(folder)
    assert model._fetch("1.0.0", entry(model)) == folder
    assert folder.is_dir()
    instance.prepare()
    with pytest.raises(ValueError, match="does not match"):
        model._fetch("1.0.0", entry(model) | {"sha256": "0" * 64})


def test_archive_that_cannot_be_unpacked_does_not_end_the_start(instance):
    for archive in instance.desired.store.folder.glob("*.mar"):
        archive.write_bytes(b"no archive")
    instance.prepare()
    (model,) = instance.released
    with pytest.raises(ValueError, match="does not match the release document"):
        model._fetch("1.0.0", entry(model))
