"""Learning from a trained model: the same on any number of processes and through an interruption, refused if unfair."""

import multiprocessing
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.conftest import LIMIT_S
from tests.training.test_exact import (
    assert_trained_alike,
    finish,
    history,
    params,  # noqa: F401 # a fixture
    run_train,
    same_bits,
    weights,
)
from training.data.sets import read_data
from training.folder import at_work
from training.loop import train
from training.model import Checkpoint
from training.resume import OtherRunError, Stopped, load_state
from training.teacher import Teacher, Trained, read_trained, resized
from training.text.tower import text_spec


@pytest.fixture(scope="module")
def trained(tiny_run):
    return Trained.read(tiny_run / "checkpoint.pt")


@pytest.fixture
def crops():
    return torch.randint(0, 256, (5, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def reordered(one: Trained, order: list[int]) -> Trained:
    """The same network with its classes in another order."""
    checkpoint = one.checkpoint
    head = {name: value[order] if name.startswith("classifier.") else value for name, value in checkpoint.weights.items()}
    labels = tuple(checkpoint.labels[i] for i in order)
    return replace(one, checkpoint=replace(checkpoint, weights=head, labels=labels))


def test_its_classes_may_have_another_order_and_of_several_the_mean_counts(trained, crops):
    labels = trained.checkpoint.labels
    alone = Teacher([trained], 2.0, labels)(crops)
    assert torch.allclose(alone.sum(1), torch.ones(5))
    assert torch.allclose(Teacher([reordered(trained, [2, 0, 3, 1])], 2.0, labels)(crops), alone, atol=1e-6)
    other = replace(trained, checkpoint=replace(trained.checkpoint, temperature=5.0))
    both = Teacher([trained, other], 2.0, labels)(crops)
    assert torch.allclose(both, (alone + Teacher([other], 2.0, labels)(crops)) / 2)
    assert not torch.allclose(both, alone, atol=1e-3)


def test_its_batch_statistics_stay_and_it_sees_crops_of_its_own_size(trained, crops):
    teacher = Teacher([trained], 1.0, trained.checkpoint.labels)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    assert teacher(resized(crops, 96)).shape == (5, 4)  # trained on 64
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert not any(p.requires_grad for p in teacher.parameters())
    assert torch.equal(resized(crops, 64), crops)


def test_loss_is_hintons(trained):
    teacher = Teacher([trained], 3.0, trained.checkpoint.labels)
    logits = torch.randn(6, 4, generator=torch.Generator().manual_seed(2), requires_grad=True)
    wanted = torch.randn(6, 4, generator=torch.Generator().manual_seed(3)).softmax(1)
    loss = teacher.loss(logits, wanted)
    divergence = torch.nn.functional.kl_div((logits / 3).log_softmax(1), wanted, reduction="none").sum(1)
    entropy = -(wanted * wanted.log()).sum(1)
    assert torch.allclose(loss, 9 * (divergence + entropy), atol=1e-5)


@pytest.mark.parametrize(
    ("teacher", "reason"),
    [
        ("nowhere/checkpoint.pt", "teacher nowhere/checkpoint.pt: there is no run nowhere"),
        (["params.yaml"], "teacher params.yaml: params.yaml is not a checkpoint of this project"),
        (".", "is not a checkpoint"),
    ],
)
def test_what_is_no_checkpoint_is_refused_before_photos_are_read(tiny_params, teacher, reason, tmp_path):
    changed = tiny_params.model_copy(update={"teacher": teacher})
    with pytest.raises(ValueError, match=reason):
        train("food", tmp_path / "no photos", changed, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def works(folder, begun, over):
    with at_work(folder, os.getpid()):
        begun.set()
        over.wait(LIMIT_S)


def test_the_latest_run_and_one_at_work_are_refused(tiny_run, tmp_path):
    (tmp_path / "latest").symlink_to(tiny_run)
    with pytest.raises(ValueError, match="which leads to another run tomorrow: expected a run's own folder"):
        Trained.read(tmp_path / "latest" / "checkpoint.pt")
    at = tmp_path / "run"
    shutil.copytree(tiny_run, at)
    context = multiprocessing.get_context("fork")
    begun, over = context.Event(), context.Event()
    process = context.Process(target=works, args=(at, begun, over))
    process.start()
    assert begun.wait(LIMIT_S)
    with pytest.raises(ValueError, match="its run is at work"):
        Trained.read(at / "checkpoint.pt")
    over.set()
    process.join(LIMIT_S)


def test_one_that_reads_texts_in_another_way_is_refused(trained):
    of_texts = replace(trained.checkpoint, spec=trained.checkpoint.spec | {"text": text_spec(4096).__dict__}, tower={})
    teacher = Teacher([trained], 2.0, trained.checkpoint.labels)
    teacher.trained = [replace(trained, checkpoint=of_texts)]
    teacher.check_texts(None)
    teacher.check_texts(text_spec(4096))
    with pytest.raises(ValueError, match="buckets=4096.*the student as .*buckets=65536"):
        teacher.check_texts(text_spec(65536))


def test_no_teacher_is_none(tiny_params):
    assert read_trained(tiny_params) == read_trained(tiny_params.model_copy(update={"teacher": []})) == []


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        (("class_0", "class_1", "class_2", "soup"), "does not know the class 'soup'"),
        (("class_0", "class_1", "class_2"), "knows the class 'class_3', too"),
    ],
)
def test_other_classes_are_refused_by_name(trained, labels, reason):
    with pytest.raises(ValueError, match=reason):
        Teacher([trained], 2.0, labels)


def test_one_that_was_trained_on_held_out_photos_is_refused(trained, generated, tiny_params):
    teacher = Teacher([trained], 2.0, trained.checkpoint.labels)
    data = read_data(generated, tiny_params.val_fraction, tiny_params.seed)
    teacher.check_held_out(data.held_out)
    other = read_data(generated, tiny_params.val_fraction, tiny_params.seed + 1)
    with pytest.raises(ValueError, match=r"the teacher was trained on \d+ of \d+ held-out photos, such as .*: their figures"):
        teacher.check_held_out(other.held_out)


@pytest.fixture(scope="module")
def taught(tmp_path_factory, generated, params, tiny_run):  # noqa: F811
    """(parameters, folder of a run of one process) of a student, with mixes and the teacher's own size of crops."""
    params = params.model_copy(update={"teacher": str(tiny_run / "checkpoint.pt"), "teacher_weight": 0.7})
    out = tmp_path_factory.mktemp("taught") / "one"
    train("food", generated, params, out)
    return params, out


@pytest.mark.slow
def test_student_is_the_same_on_two_processes_and_in_two_parts(tmp_path, generated, taught):
    params, one = taught  # noqa: F811
    two = run_train(params, generated, tmp_path / "two", processes=2)
    train("food", generated, params.model_copy(update={"accumulate": 2}), tmp_path / "parts")
    finish(two)
    for other in ("two", "parts"):
        assert_trained_alike(one, tmp_path / other)


@pytest.mark.slow
def test_student_goes_on_bit_for_bit_after_a_signal_but_not_with_another_teacher(tmp_path, generated, taught, tiny_run):
    params, one = taught  # noqa: F811
    teacher = Path(shutil.copy(tiny_run / "checkpoint.pt", tmp_path / "teacher.pt"))
    with pytest.raises(Stopped):
        train("food", generated, params, tmp_path / "run", on_step=lambda step: step == 5 and os.kill(os.getpid(), signal.SIGTERM))
    state = load_state(tmp_path / "run" / "last.pt")
    train("food", generated, params, tmp_path / "run")
    assert same_bits(load_state(tmp_path / "run" / "last.pt"), load_state(one / "last.pt"))
    assert same_bits(history(tmp_path / "run"), history(one))
    assert state["teacher"] == [Trained.read(teacher).sha256]

    other = params.model_copy(update={"teacher": str(teacher)})
    train("food", generated, other.model_copy(update={"epochs": 1}), tmp_path / "other")
    content = Checkpoint.load(teacher)
    replace(content, temperature=2.0).save(teacher)
    with pytest.raises(OtherRunError, match=r"the teacher has changed: another model is in .*teacher.pt"):
        train("food", generated, other.model_copy(update={"epochs": 1}), tmp_path / "other")


@pytest.mark.slow
def test_teacher_changes_what_is_learnt_and_its_photos_count_as_trained_on(tmp_path, generated, taught, trained):
    params, one = taught  # noqa: F811
    train("food", generated, params.model_copy(update={"teacher": None}), tmp_path / "alone")
    assert not same_bits(weights(tmp_path / "alone"), weights(one))
    train("food", generated, params.model_copy(update={"teacher_weight": 0.0}), tmp_path / "unheard")
    assert same_bits(weights(tmp_path / "unheard"), weights(tmp_path / "alone"))
    assert set(trained.checkpoint.trained_on) <= set(Checkpoint.load(one / "checkpoint.pt").trained_on)
