"""The same run, whatever its processes, its parts and its interruptions."""

import contextlib
import csv
import itertools
import os
import random
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import yaml
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from tests.conftest import LIMIT_S, ROOT
from tests.waiting import until
from training.data.loader import Batches
from training.data.pictures import generate
from training.data.split import Photo
from training.loop import part_of_step, train
from training.model import Checkpoint, save_whole
from training.params import Params
from training.recipe import Average, Mix, choose_mix, mix_crops, parameter_groups, swap_neighbours
from training.resume import Stopped, load_state, read_run

pytestmark = pytest.mark.slow

# float32 sums in another order; AdamW divides small gradients by their size, which makes more of it
WEIGHT_TOLERANCE, LOSS_TOLERANCE = 1e-4, 1e-5


@pytest.fixture(scope="module")
def params(tiny_params) -> Params:
    """All of the recipe at once, on a network without batch statistics."""
    changes: dict[str, Any] = {
        "model": "test_vit",
        "model_args": {"img_size": 64},
        "spec": {"input_size": [3, 64, 64]},
        "augment": "trivial",
    }
    changes |= {"mixup": 0.2, "cutmix": 1.0, "mix_off_epoch": 3, "epochs": 3, "clip_norm": 1.0, "layer_decay": 0.8, "lr": 0.001}
    changes |= {"freeze": ["patch_embed"], "freeze_epochs": 1, "warmup_epochs": 0.5, "workers": 1}
    return tiny_params.model_copy(update=changes)


def run_train(params: Params, data: Path, out: Path, processes: int = 0, **options) -> subprocess.Popen[str]:
    out.parent.mkdir(parents=True, exist_ok=True)
    file = out.parent / f"{out.name}.yaml"
    file.write_text(yaml.safe_dump(params.model_dump()))
    torchrun = [
        "-m",
        "torch.distributed.run",
        f"--nproc-per-node={processes}",
        "--rdzv-backend=c10d",
        "--rdzv-endpoint=localhost:0",
    ]
    restarts = [f"--max-restarts={options.pop('restarts', 0)}"]
    return subprocess.Popen(
        [
            *(sys.executable, *((*torchrun, *restarts) if processes else ()), "-m", "training.train", "--model", "food"),
            *("--data", str(data), "--params", str(file), "--out", str(out)),
        ],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "MLFLOW_TRACKING_URI": "none"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def finish(process: subprocess.Popen[str], code: int = 0) -> tuple[str, str]:
    out, err = process.communicate(timeout=LIMIT_S)
    assert process.returncode == code, out + err
    return out, err


def history(out: Path) -> list[dict[str, float]]:
    return [{k: float(v) for k, v in row.items()} for row in csv.DictReader((out / "history.csv").read_text().splitlines())]


def weights(out: Path) -> dict[str, torch.Tensor]:
    return Checkpoint.load(out / "checkpoint.pt").weights


def assert_trained_alike(one: Path, other: Path) -> None:
    """Two runs have the same weights, text tower and history, but for the order of float32 sums."""
    first, second = (Checkpoint.load(out / "checkpoint.pt") for out in (one, other))
    for ours, theirs in ((first.weights, second.weights), (first.tower or {}, second.tower or {})):
        assert ours.keys() == theirs.keys()
        for name, weight in ours.items():
            assert (weight - theirs[name]).abs().max() < WEIGHT_TOLERANCE, name
    for row, again in zip(history(one), history(other), strict=True):
        assert again["loss"] == pytest.approx(row["loss"], abs=LOSS_TOLERANCE)
        assert again["val_loss"] == pytest.approx(row["val_loss"], abs=LOSS_TOLERANCE)
        assert again["top1"] == row["top1"]


def same_bits(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same_bits(a[k], b[k]) for k in a if k not in ("images_per_s", "data_wait"))
    if isinstance(a, list):
        return len(a) == len(b) and all(same_bits(x, y) for x, y in zip(a, b, strict=True))
    return a == b


@pytest.fixture(scope="module")
def one_process(tmp_path_factory, generated, params) -> Path:
    out = tmp_path_factory.mktemp("exact") / "one"
    torch.set_num_threads(1)
    train("food", generated, params, out)
    return out


def test_same_seed_gives_the_same_bits_with_any_number_of_loader_workers(tmp_path, generated, params, one_process):
    train("food", generated, params.model_copy(update={"workers": 0}), tmp_path / "again")
    assert same_bits(weights(one_process), weights(tmp_path / "again"))
    assert same_bits(history(one_process), history(tmp_path / "again"))


@pytest.mark.slow
def test_two_processes_or_two_parts_train_as_one(tmp_path, generated, params, one_process):
    two = run_train(params, generated, tmp_path / "two", processes=2)
    train("food", generated, params.model_copy(update={"accumulate": 2}), tmp_path / "parts")
    finish(two)
    for other in ("two", "parts"):
        assert_trained_alike(one_process, tmp_path / other)
    # not for want of training
    assert history(one_process)[-1]["loss"] < history(one_process)[0]["loss"] - 100 * LOSS_TOLERANCE


@pytest.mark.parametrize("step", [3, 5, 12])  # within an epoch, at its end, in the last
def test_run_stopped_by_sigterm_goes_on_bit_for_bit(tmp_path, generated, params, one_process, step, capsys):
    def at_step(now: int) -> None:
        if now == step:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Stopped):
        train("food", generated, params, tmp_path / "run", on_step=at_step)
    assert f"stopped by SIGTERM after step {step}" in capsys.readouterr().out
    steps = []
    train("food", generated, params, tmp_path / "run", on_step=steps.append)
    assert steps == list(range(step + 1, int(history(one_process)[-1]["step"]) + 1))
    assert same_bits(load_state(tmp_path / "run" / "last.pt"), load_state(one_process / "last.pt"))
    assert same_bits(weights(tmp_path / "run"), weights(one_process))
    assert same_bits(history(tmp_path / "run"), history(one_process))


def test_finished_run_is_left_as_it_is(generated, params, one_process, capsys):
    before = (one_process / "checkpoint.pt").stat().st_mtime_ns
    train("food", generated, params, one_process)
    assert "nothing to do" in capsys.readouterr().out
    assert (one_process / "checkpoint.pt").stat().st_mtime_ns == before


def test_signal_during_evaluation_keeps_the_epoch(tmp_path, generated, params, one_process, monkeypatch):
    def predict(*_, **__):
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("the signal did not break off the evaluation")

    with monkeypatch.context() as patch:
        patch.setattr("training.record.predict", predict)
        with pytest.raises(Stopped):
            train("food", generated, params, tmp_path / "run")
    steps = []
    train("food", generated, params, tmp_path / "run", on_step=steps.append)
    assert steps[0] == history(one_process)[0]["step"] + 1  # the first epoch's steps are not done again
    assert same_bits(weights(tmp_path / "run"), weights(one_process))


def wait_for_step(out: Path, process: subprocess.Popen[str], least: int) -> int:
    """Wait until the saved state is at least that many steps on."""

    def saved() -> int:
        state = load_state(out / "last.pt")  # whole at any moment, or this raises
        step = state["progress"]["step"] if state else 0
        return step if step >= least else 0

    return until(saved, lambda: process.poll() is not None and process.communicate(), process, pause_s=0)


@pytest.mark.slow
def test_sigkill_costs_no_more_than_since_the_last_save(tmp_path, generated, params, one_process):
    often = params.model_copy(update={"checkpoint_minutes": 0.0})  # a save a step
    process = run_train(often, generated, tmp_path / "run")
    saved = wait_for_step(tmp_path / "run", process, least=random.Random(os.getpid()).randint(1, 12))
    process.kill()
    process.communicate()
    assert not list(Path("/proc").glob(f"*/task/{process.pid}"))
    steps = []
    train("food", generated, params, tmp_path / "run", on_step=steps.append)  # checkpoint_minutes may change
    assert saved < steps[0] <= saved + 4  # it went on for some moments after we looked
    assert same_bits(weights(tmp_path / "run"), weights(one_process))


@pytest.mark.slow
def test_killed_rank_is_restarted_and_the_run_ends_as_if_nothing_had_been(tmp_path, generated, params):
    often = params.model_copy(update={"checkpoint_minutes": 0.0})
    undisturbed = run_train(often, generated, tmp_path / "undisturbed", processes=2)
    finish(undisturbed)
    process = run_train(often, generated, tmp_path / "run", processes=2, restarts=1)
    wait_for_step(tmp_path / "run", process, least=4)
    children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True).stdout.split()
    os.kill(int(children[-1]), signal.SIGKILL)
    out, _ = finish(process)
    assert "resuming after step" in out
    assert same_bits(weights(tmp_path / "run"), weights(tmp_path / "undisturbed"))


@pytest.mark.slow
def test_sigterm_to_torchrun_saves_and_ends_all_ranks(tmp_path, generated, params):
    long = params.model_copy(update={"epochs": 200})
    process = run_train(long, generated, tmp_path / "run", processes=2, start_new_session=True)
    wait_for_step(tmp_path / "run", process, least=6)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=LIMIT_S)
    assert process.returncode != 0
    assert "stopped by SIGTERM after step" in out
    state = load_state(tmp_path / "run" / "last.pt")
    assert state
    assert f"after step {state['progress']['step']};" in out
    assert subprocess.run(["pgrep", "-g", str(process.pid)], capture_output=True).stdout == b""


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lr": 0.5, "seed": 7}, r"lr 0.001 -> 0.5, seed 0 -> 7"),
        ({"epochs": 9}, "epochs 3 -> 9"),
    ],
)
def test_run_with_other_parameters_is_not_resumed(generated, params, one_process, change, message):
    with pytest.raises(ValueError, match=f"parameters have changed: {message}.*choose another folder"):
        train("food", generated, params.model_copy(update=change), one_process)


def test_run_of_another_model_is_not_resumed_and_one_without_a_name_takes_any(tmp_path, generated, params, one_process):
    with pytest.raises(ValueError, match="the model's name has changed: food -> flowers.*choose another folder"):
        train("flowers", generated, params, one_process)
    assert read_run(one_process, None)[0] == "food"
    older = load_state(one_process / "last.pt")
    del older["name"]
    save_whole(older, tmp_path / "last.pt")
    with pytest.raises(ValueError, match="has no model name: give MODEL=NAME"):
        read_run(tmp_path, None)
    assert read_run(tmp_path, "flowers")[0] == "flowers"
    train("flowers", generated, params, tmp_path)


def test_run_with_other_labels_or_photos_is_not_resumed(tmp_path, generated, params, one_process):
    more = generate(tmp_path / "more", num_classes=5, per_class=20)
    with pytest.raises(ValueError, match=r"the label map has changed: \['class_4'\]"):
        train("food", more, params, one_process)
    other = generate(tmp_path / "other", num_classes=4, per_class=20, seed=1)
    with pytest.raises(ValueError, match="the photos have changed: fingerprint"):
        train("food", other, params, one_process)


@pytest.mark.slow
def test_resume_flag_takes_data_and_parameters_from_the_run(tmp_path, generated, params):
    short = params.model_copy(update={"epochs": 1})
    with pytest.raises(Stopped):
        train("food", generated, short, tmp_path / "run", on_step=lambda _: os.kill(os.getpid(), signal.SIGTERM))
    command = [sys.executable, "-m", "training.train", "--resume", "--out"]
    done = subprocess.run([*command, str(tmp_path / "run")], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "resuming after step 1" in done.stdout
    done = subprocess.run([*command, str(tmp_path / "none")], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "error: there is no run" in done.stderr


@contextlib.contextmanager
def no_room_for(size):
    """Within this `with`, no file of this process can grow beyond so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.slow
def test_full_disk_within_an_epoch_is_a_warning_and_at_its_end_an_error(tmp_path, generated, params, capsys):
    out = tmp_path / "run"
    # no workers: their shared memory counts as files, too
    full = params.model_copy(update={"checkpoint_minutes": 0.0, "workers": 0})
    limit = contextlib.ExitStack()

    def fill(step: int) -> None:
        if step == 2:
            limit.enter_context(no_room_for(10_000))
        if step == 3:
            limit.close()

    with pytest.raises(Stopped):
        train("food", generated, full, out, on_step=lambda step: step == 1 and os.kill(os.getpid(), signal.SIGTERM))
    train("food", generated, full.model_copy(update={"epochs": 3}), out, on_step=fill)
    printed = capsys.readouterr().out
    assert "warning: step 2 was not saved ([Errno 27] File too large)" in printed
    assert printed.count("warning") == 1

    with no_room_for(10_000), pytest.raises(ValueError, match="File too large.*make room"):
        train("food", generated, params.model_copy(update={"workers": 0}), tmp_path / "full")
    assert not (tmp_path / "full" / "checkpoint.pt").exists()
    assert not list((tmp_path / "full").glob("*.part"))


def test_photo_that_becomes_unreadable_is_named_and_skipped_up_to_a_limit(tmp_path, params, capsys):
    data = generate(tmp_path / "pictures", num_classes=4, per_class=40)
    short = params.model_copy(update={"epochs": 1, "workers": 0, "model": "test_efficientnet", "model_args": {}, "freeze": []})
    spoilt = []

    def spoil(step: int) -> None:
        for path in sorted(data.rglob("*.jpg"))[: 12 if step > 1 else 0]:
            path.write_bytes(b"no photo")
            spoilt.append(path.name)

    # found at the start of a run, a share of them is left out; so spoil a run that is on its way
    with pytest.raises(ValueError, match="of .* training photos are unreadable, the limit is 1% of them"):
        train("food", data, short.model_copy(update={"epochs": 50}), tmp_path / "run", on_step=spoil)
    err = capsys.readouterr().err
    assert "unreadable, 1 so far on rank 0" in err
    assert any(name in err for name in spoilt)


def test_run_ends_early_when_it_gets_no_better_and_keeps_the_best_epoch(tmp_path, generated, tiny_params, capsys):
    tired = tiny_params.model_copy(update={"epochs": 40, "patience": 2, "best_metric": "top1", "lr": 0.003})
    train("food", generated, tired, tmp_path / "run")
    rows = history(tmp_path / "run")
    assert len(rows) < 40
    assert "ended early" in capsys.readouterr().out
    best = max(rows, key=lambda row: row["top1"])  # the first of equals
    checkpoint = Checkpoint.load(tmp_path / "run" / "checkpoint.pt")
    assert checkpoint.epoch == best["epoch"] == rows[-1]["epoch"] - 2


@pytest.mark.slow
def test_compiled_run_learns_the_same(tmp_path, generated, params):
    short = params.model_copy(update={"epochs": 1, "workers": 0})
    for name, compiled in (("eager", False), ("compiled", True)):
        finish(run_train(short.model_copy(update={"compile": compiled}), generated, tmp_path / name))
    (eager,), (compiled_row,) = history(tmp_path / "eager"), history(tmp_path / "compiled")
    assert compiled_row["loss"] == pytest.approx(eager["loss"], abs=1e-3)


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_batches_of_all_ranks_make_up_the_same_global_batches(tiny_params, world_size):
    params = tiny_params.model_copy(update={"accumulate": 2, "mixup": 0.2, "epochs": 2})
    ranks = [list(Batches(100, params, rank, world_size)) for rank in range(world_size)]
    steps = 100 // 16
    assert [len(batches) for batches in ranks] == [2 * 2 * steps] * world_size
    whole = list(Batches(100, params.model_copy(update={"accumulate": 1}), 0, 1))
    for step, batch in enumerate(whole):
        parts = [ranks[rank][2 * step + part] for part in range(2) for rank in range(world_size)]
        assert [key for part in parts for key in part] == batch
    for epoch in range(2):
        seen = [position for batch in whole[epoch * steps : (epoch + 1) * steps] for _, position in batch]
        assert len(set(seen)) == 96
    late = list(Batches(100, params, 0, 1, first_step=7))
    assert late == ranks[0][14:] or world_size > 1


def test_batch_that_cannot_be_parted_is_refused(tiny_params):
    params = tiny_params.model_copy(update={"mixup": 0.2, "accumulate": 3})
    with pytest.raises(ValueError, match="is 16, expected a multiple of 12: 2 processes x 3 parts x pairs to mix"):
        Batches(100, params, 0, 2)


def test_inner_steps_do_not_add_up_gradients_over_ranks(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        model = DistributedDataParallel(nn.Linear(2, 2))
        reductions = []

        def count(_, bucket):
            reductions.append(1)
            future = torch.futures.Future()
            future.set_result(bucket.buffer())
            return future

        model.register_comm_hook(None, count)
        for last in (False, False, True):
            with part_of_step(model, last):
                model(torch.ones(1, 2)).sum().backward()
        assert len(reductions) == 1
    finally:
        dist.destroy_process_group()


def test_mixing_is_the_same_on_every_rank_and_ends_at_its_epoch(tiny_params):
    params = tiny_params.model_copy(update={"mixup": 0.4, "cutmix": 1.0, "mix_off_epoch": 3})
    mixes = [choose_mix(params, step, 0) for step in range(200)]
    assert mixes == [choose_mix(params, step, 1) for step in range(200)]
    assert 60 < sum(mix.box is None for mix in mixes if mix) < 140
    assert choose_mix(params, 5, 2) is None
    assert choose_mix(tiny_params, 5, 0) is None
    crops = torch.arange(4 * 64 * 64 * 3).view(4, 64, 64, 3) % 251
    others = swap_neighbours(crops)
    assert torch.equal(others, crops[[1, 0, 3, 2]])
    for mix in mixes:
        mixed = mix_crops(crops.to(torch.uint8), mix)
        if mix.box is None:
            assert torch.allclose(mixed, mix.share * crops + (1 - mix.share) * others, atol=1e-3)
        else:
            kept = (mixed == crops).all(-1)[0].float().mean()
            assert kept == pytest.approx(mix.share, abs=0.02)
    assert mix_crops(crops, Mix(1.0)).equal(crops.float())


def test_layer_decay_slows_layers_the_more_the_farther_from_the_head(params):
    from training.model import build

    classifier, _ = build(params, 4)
    rate = {id(p): group["peak_lr"] for group in parameter_groups(classifier, params) for p in group["params"]}
    rates = [rate[id(classifier.network.get_parameter(f"blocks.{i}.mlp.fc1.weight"))] for i in range(6)]
    assert all(later == pytest.approx(earlier / 0.8) for earlier, later in itertools.pairwise(rates))
    assert rate[id(classifier.network.get_parameter("head.weight"))] == params.head_lr


def test_average_follows_quickly_at_first_and_keeps_batch_statistics():
    source, averaged = nn.BatchNorm1d(1), nn.BatchNorm1d(1)
    average = Average(averaged, source, decay=0.9)
    nn.init.constant_(source.weight, 2.0)
    source.num_batches_tracked += 5
    average.update(0)  # decay 1/10
    assert averaged.weight.item() == pytest.approx(1.9)
    average.update(1000)  # decay 0.9
    assert averaged.weight.item() == pytest.approx(1.91)
    assert averaged.num_batches_tracked == 5


def test_photo_of_an_unmounted_folder_is_a_clear_error(tiny_params):
    from training.data.loader import TrainPhotos

    photos = TrainPhotos([Photo(Path(f"/nowhere/{i}.jpg"), 0) for i in range(50)], tiny_params)
    with pytest.raises(ValueError, match="20 photos in a row are unreadable"):
        photos[(0, 3)]
