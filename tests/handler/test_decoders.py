"""Decoding in processes of its own: what kills or hangs one harms nobody else, and what runs at a time is within the budget."""

import contextlib
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

import handler.decoding
from handler.cost import MEGABYTE, estimate
from handler.decoder import send_both
from handler.decoders import START_TRIES, Budget, Decoded, Decoders
from handler.decoding import Decoder
from handler.errors import PhotoError
from handler.handed import HandedPhoto
from handler.metrics import Metrics
from handler.photo_file import open_photo
from handler.preprocess import preprocess, reduction, resized_side
from tests.conftest import LIMIT_S, ROOT, bytes_of, picture_bytes
from tests.heif_files import coded, grid_of, heif
from tests.hostile_files import webp_lossless
from tests.waiting import until

BUDGET = Budget(decoders=2, memory=384 * MEGABYTE, batch_cpu_s=1.5, batch_size=8, batch_s=20)
DEADLY_WIDTH = 333
# what a decoder does with a photo of that width, in place of decoding it
FAULTS = {
    "segmentation fault": "os.kill(os.getpid(), signal.SIGSEGV)",
    "abort": "os.abort()",
    "killed by the kernel": "os.kill(os.getpid(), signal.SIGKILL)",
    "exit": "os._exit(0)",
    "endless loop": "[0 for _ in iter(int, 1)]",
    "asleep": "time.sleep(1000)",
    "stopped": "os.kill(os.getpid(), signal.SIGSTOP)",
    "takes all memory": "bytearray(2**40)",
    "takes memory bit by bit": "[bytearray(2**24) for _ in range(10000)]",
}
TAKE_LONG = ("abort", "killed by the kernel", "exit", "endless loop", "stopped", "takes memory bit by bit")
ACT = f"""
import os, signal, sys, time
sys.path.insert(0, sys.argv.pop())
import handler.decoder as decoder
decode = decoder.decode
def deadly(image, factor):
    if image.width == {DEADLY_WIDTH}:
        FAULT
    return decode(image, factor)
decoder.decode = deadly
decoder.start()
"""


def deaths(metrics: Metrics) -> float:
    return metrics.registry.get_sample_value("seefood_decoder_deaths_total", {"version": "1"}) or 0


@pytest.fixture
def metrics():
    return Metrics("1", ["a"])


def crops(decoders, photos):
    return decoders.decode(photos)[0]


def assert_answered(outcome, photo, spec):
    assert isinstance(outcome, Decoded), outcome
    np.testing.assert_array_equal(outcome.crop, preprocess(photo, spec))


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "JPEG2000", "AVIF"])
def test_crop_is_that_of_preprocess(spec, metrics, image_format, decoders_of_all_tests):
    photo = picture_bytes(size=(640, 480), image_format=image_format)
    (decoded,) = crops(decoders_of_all_tests, [photo])
    assert_answered(decoded, photo, spec)
    assert decoded.size == (320, 240)  # at half its size


def test_photo_in_a_file_is_read_by_its_decoder_each_time_from_the_beginning(spec, decoders_of_all_tests, tmp_path):
    photos = {"cheap": picture_bytes(1), "costly": picture_bytes(2, size=(2400, 2000), image_format="PNG"), "none": b"no photo"}
    for name, photo in photos.items():
        (tmp_path / name).write_bytes(photo)
    opened = [HandedPhoto(tmp_path / name) for name in photos]
    pids = [decoder.pid for decoder in decoders_of_all_tests.processes]
    descriptors = [len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in pids]
    for _ in range(3):
        *outcomes, none = crops(decoders_of_all_tests, opened)
        for outcome, photo in zip(outcomes, photos.values(), strict=False):
            assert_answered(outcome, photo, spec)
        assert (type(none), none.status) == (PhotoError, 415)
    assert [decoder.pid for decoder in decoders_of_all_tests.processes] == pids
    assert [len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in pids] == descriptors
    assert [bytes(photo) for photo in opened] == [*photos.values()]
    for photo in opened:
        photo.close()


@pytest.fixture(scope="module")
def decoders_of_all_tests(spec):
    return Decoders(spec, BUDGET, Metrics("1", ["a"]))


@pytest.mark.parametrize("fault", [pytest.param(name, marks=[pytest.mark.slow] if name in TAKE_LONG else []) for name in FAULTS])
def test_photo_that_ends_or_hangs_its_decoder_is_refused_alone(spec, metrics, monkeypatch, fault):
    monkeypatch.setattr(handler.decoding, "CODE", ACT.replace("FAULT", FAULTS[fault]))
    decoders = Decoders(spec, replace(BUDGET, batch_s=12), metrics)
    deadly, good = picture_bytes(size=(DEADLY_WIDTH, 250)), picture_bytes(1)
    for _ in range(2):  # the next request finds a working decoder
        outcomes = crops(decoders, [good, deadly, good, good])
        assert (type(outcomes[1]), outcomes[1].status) == (PhotoError, 422)
        for i in (0, 2, 3):
            assert_answered(outcomes[i], good, spec)
    assert deaths(metrics) == 2


def test_decoder_that_was_killed_while_idle_is_replaced_and_no_photo_blamed(spec, metrics):
    decoders = Decoders(spec, BUDGET, metrics)
    for decoder in decoders.processes:
        os.kill(decoder.pid, signal.SIGKILL)
    photos = [picture_bytes(i) for i in range(4)]
    for outcome, photo in zip(crops(decoders, photos), photos, strict=True):
        assert_answered(outcome, photo, spec)
    assert deaths(metrics) == 0


def test_no_decoder_outlives_its_worker():
    lines = """
import os, signal
from handler.decoders import Budget, Decoders
from handler.metrics import Metrics
from handler.preprocess import Spec
spec = Spec((3, 224, 224), "bicubic", (0.5,) * 3, (0.5,) * 3, 0.95, "center")
decoders = Decoders(spec, Budget(3, 10**8, 1.5, 8, 20), Metrics("1", ["a"]))
print(*[decoder.pid for decoder in decoders.processes], flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", lines], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    pids = [int(pid) for pid in done.stdout.split()]
    assert len(pids) == 3

    def runs(pid):
        with contextlib.suppress(psutil.NoSuchProcess):
            return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE

    until(lambda: not any(map(runs, pids)))


@pytest.mark.slow
def test_decoders_whose_worker_is_killed_end_without_a_word():
    lines = """
import os, sys, threading
from handler.decoders import Budget, Decoders
from handler.metrics import Metrics
from handler.preprocess import Spec
spec = Spec((3, 224, 224), "bicubic", (0.5,) * 3, (0.5,) * 3, 0.95, "center")
decoders = Decoders(spec, Budget(2, 10**8, 1.5, 8, 20), Metrics("1", ["a"]))
photo = sys.stdin.buffer.read()
decoders.decode([photo])
threading.Thread(target=decoders.decode, args=([photo] * 8,)).start()
os._exit(0)
"""
    for _ in range(3):  # each at another moment
        done = subprocess.run([sys.executable, "-c", lines], input=picture_bytes(1), capture_output=True, cwd=ROOT, timeout=LIMIT_S)
        assert (done.returncode, done.stderr) == (0, b""), "the last process that has standard error has ended, too"


def test_decoders_get_no_key_of_the_worker(spec, metrics, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    decoders = Decoders(spec, BUDGET, metrics)
    assert "AWS_SECRET_ACCESS_KEY" not in psutil.Process(decoders.processes[0].pid).environ()


def test_photo_over_the_budget_by_itself_is_refused_with_what_it_takes(spec, metrics):
    photo = bytes_of(Image.new("RGB", (4000, 4000)), "PNG")
    little = Decoders(spec, replace(BUDGET, memory=64 * MEGABYTE), metrics)
    (refused,) = crops(little, [photo])
    assert refused.status == 413
    assert "MB of memory to decode, the limit is 64 MB: send it smaller, or as a baseline JPEG" in str(refused)
    slow = Decoders(spec, replace(BUDGET, batch_cpu_s=0.2), metrics)
    (refused,) = crops(slow, [photo])
    assert refused.status == 413
    assert "s of CPU to decode, the limit is 0.10 s" in str(refused)


def test_of_costly_photos_as_many_as_the_budget_allows_are_read_and_their_neighbours_all(spec, metrics):
    decoders = Decoders(spec, replace(BUDGET, batch_cpu_s=1.0), metrics)
    costly, good = webp_lossless(3000, 3000), picture_bytes()
    outcomes = crops(decoders, [*[costly] * 7, good])
    assert_answered(outcomes[7], good, spec)
    statuses = [outcome.status if isinstance(outcome, PhotoError) else 200 for outcome in outcomes[:7]]
    image = open_photo(costly)
    cost = estimate(image, costly, reduction(image, resized_side(spec)))
    # that they were opened counts, too
    assert int(1.0 / cost.cpu_s) - 1 <= statuses.count(200) <= int(1.0 / cost.cpu_s)
    assert set(statuses) == {200, 503}
    assert "send this one again" in str(next(outcome for outcome in outcomes if isinstance(outcome, PhotoError)))
    # nothing of it stays: the next batch has the whole budget
    assert [type(outcome) for outcome in crops(decoders, [costly])] == [Decoded]


def test_memory_that_is_taken_at_a_time_is_within_the_budget(spec, metrics, monkeypatch):
    costly = bytes_of(Image.new("RGB", (2000, 2000), (200, 30, 60)), "PNG")
    image = open_photo(costly)
    memory = estimate(image, costly, reduction(image, resized_side(spec))).memory
    decoders = Decoders(spec, replace(BUDGET, decoders=3, memory=int(2.5 * memory), batch_cpu_s=60, batch_s=LIMIT_S), metrics)
    taken, give = [], decoders._give

    def noted(batch, are_costly):
        give(batch, are_costly)
        if are_costly:
            taken.append(sum(job.limit.memory for decoder in decoders.processes for job in decoder.jobs))

    monkeypatch.setattr(decoders, "_give", noted)
    for outcome in crops(decoders, [costly] * 6):
        assert_answered(outcome, costly, spec)
    assert max(taken) == 2 * memory


def test_decoder_has_its_next_photo_before_it_has_answered_and_small_ones_alone(spec, metrics, monkeypatch):
    decoders = Decoders(spec, replace(BUDGET, batch_s=LIMIT_S), metrics)
    small, large = picture_bytes(1), os.urandom(2 * MEGABYTE)
    had, give = [], decoders._give

    def noted(*arguments):
        give(*arguments)
        had.append([[job.photo is small for job in decoder.jobs] for decoder in decoders.processes])

    monkeypatch.setattr(decoders, "_give", noted)
    for outcome in crops(decoders, [small] * 8):
        assert_answered(outcome, small, spec)
    assert had[0] == [[True, True]] * 2
    had.clear()
    assert [one.status for one in crops(decoders, [large] * 6)] == [415] * 6
    assert max(len(jobs) for each in had for jobs in each) == 1


def test_photos_behind_one_that_ends_its_decoder_are_answered_by_another(spec, metrics, monkeypatch):
    monkeypatch.setattr(handler.decoding, "CODE", ACT.replace("FAULT", FAULTS["segmentation fault"]))
    decoders = Decoders(spec, BUDGET, metrics)
    deadly, good = picture_bytes(size=(DEADLY_WIDTH, 250)), picture_bytes(1)
    photos = [good, deadly, good, good, deadly, good, good, good]
    for outcome, photo in zip(crops(decoders, photos), photos, strict=True):
        if photo is good:
            assert_answered(outcome, photo, spec)
        else:
            assert (type(outcome), outcome.status) == (PhotoError, 422)
    assert deaths(metrics) == 2


# what a decoder that a photo has taken over may answer: JSON, and so many bytes of pixels
LIES = {
    "no JSON": (b"no", 0),
    "no object": (b"[1, 2]", 0),
    "nothing": (b"{}", 0),
    "time without a number": (b'{"size": [320, 240], "cpu_s": NaN, "last": false}', 224 * 224 * 3),
    "too few pixels": (b'{"size": [320, 240], "cpu_s": 0.1, "last": false}', 300),
    "no pixels": (b'{"size": [320, 240], "cpu_s": 0.1, "last": false}', 0),
    "a size of letters": (b'{"size": ["a", "b"], "cpu_s": 0.1, "last": false}', 224 * 224 * 3),
    "an endless number": (b'{"cost": [1%s, 0.1], "cpu_s": 0.1, "last": false}' % (b"0" * 400), 0),
    "a status of its own": (b'{"status": 200, "message": "", "out_of_memory": false, "cpu_s": 0.1, "last": false}', 0),
    "deep": (b"[" * 60_000, 0),
    "memory that is no whole number": (b'{"cost": [1.5, 0.1], "cpu_s": 0.1, "last": false}', 0),
    "a photo without pixels": (b'{"size": [0, 0], "cpu_s": 0.1, "last": false}', 224 * 224 * 3),
    "more than there is memory": (b"", 0),
}


@pytest.mark.parametrize("lie", LIES)
def test_decoder_that_answers_otherwise_than_ours_is_replaced_and_its_photo_refused_alone(spec, metrics, monkeypatch, lie):
    body, pixels = LIES[lie]
    head = struct.pack("<II", len(body), pixels) if body else b"\xff" * 8
    tell = f"decoder.socket.socket(fileno=os.dup(0)).sendall({head + body!r} + bytes({pixels})); time.sleep(1000)"
    monkeypatch.setattr(handler.decoding, "CODE", ACT.replace("FAULT", tell))
    decoders = Decoders(spec, BUDGET, metrics)
    deadly, good, other = picture_bytes(size=(DEADLY_WIDTH, 250)), picture_bytes(1), picture_bytes(2)
    outcomes = crops(decoders, [good, deadly, *[good] * 4])
    assert (type(outcomes[1]), outcomes[1].status) == (PhotoError, 422)
    for outcome in (*outcomes[:1], *outcomes[2:]):
        assert_answered(outcome, good, spec)
    for outcome in crops(decoders, [other] * 8):
        assert_answered(outcome, other, spec)
    assert deaths(metrics) == 1


def test_answers_to_a_batch_that_failed_reach_no_other_batch(spec, metrics, monkeypatch):
    decoders = Decoders(spec, BUDGET, metrics)
    one, other = picture_bytes(1), picture_bytes(2)
    with monkeypatch.context() as failing:
        failing.setattr(decoders, "_take", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            crops(decoders, [one] * 8)
    for outcome in crops(decoders, [other] * 3):
        assert_answered(outcome, other, spec)
    assert deaths(metrics) == 0


@pytest.mark.parametrize("times", [1, 20])
def test_system_that_starts_no_process_for_a_while_costs_no_later_batch_its_answers(spec, metrics, monkeypatch, times):
    monkeypatch.setattr(handler.decoding, "CODE", ACT.replace("FAULT", FAULTS["exit"]))
    decoders, popen, left = Decoders(spec, BUDGET, metrics), subprocess.Popen, [BlockingIOError(11, "no more processes")] * times

    def start(*arguments, **options):
        if left:
            raise left.pop()
        return popen(*arguments, **options)

    monkeypatch.setattr(handler.decoding.subprocess, "Popen", start)
    deadly, good = picture_bytes(size=(DEADLY_WIDTH, 250)), picture_bytes(1)
    assert [one.status for one in crops(decoders, [deadly] * 2)] == [422] * 2
    statuses = {getattr(one, "status", 200) for one in crops(decoders, [good] * 3)}
    assert statuses <= ({200} if times == 1 else {503})
    left.clear()
    for outcome in crops(decoders, [good] * 3):
        assert_answered(outcome, good, spec)


def test_decoders_that_end_at_their_start_cost_no_batch_its_time(spec, metrics, monkeypatch):
    decoders, popen, started = Decoders(spec, replace(BUDGET, batch_s=LIMIT_S), metrics), subprocess.Popen, []
    monkeypatch.setattr(handler.decoding, "CODE", "raise SystemExit(1)")
    monkeypatch.setattr(handler.decoding.subprocess, "Popen", lambda *one, **more: started.append(1) or popen(*one, **more))
    for decoder in decoders.processes:
        os.kill(decoder.pid, signal.SIGKILL)
        decoder._process.wait(LIMIT_S)
    assert [one.status for one in crops(decoders, [picture_bytes(1)] * 3)] == [503] * 3
    assert len(started) <= START_TRIES + len(decoders.processes)
    assert deaths(metrics) == 0


def test_decoder_that_ends_before_it_has_started_shows_it_when_it_is_read(spec, monkeypatch):
    monkeypatch.setattr(handler.decoding, "CODE", "raise SystemExit(1)")
    decoder = Decoder(spec, BUDGET.memory)
    decoder._process.wait(LIMIT_S)
    decoder.look()
    assert not decoder.has_ended
    with pytest.raises(EOFError):
        decoder.read()


def large_heic():
    """12 megapixels in tiles, as a phone writes them."""
    return heif([grid_of((4032, 3024), 8, 6, list(range(2, 50))), *[coded(Image.new("RGB", (512, 512), (200, 30, 60)))] * 48])


LARGE = {
    "HEIC": large_heic,
    "WebP": lambda: webp_lossless(4400, 4400),
    "PNG": lambda: bytes_of(Image.new("RGB", (4000, 4000)), "PNG"),
}


@pytest.mark.parametrize("way", LARGE)
def test_decoder_stays_after_a_large_photo(spec, metrics, way):
    decoders, photo = Decoders(spec, replace(BUDGET, decoders=1), metrics), LARGE[way]()
    pid = decoders.processes[0].pid
    for _ in range(2):
        assert [type(one) for one in crops(decoders, [photo])] == [Decoded]
        assert decoders.processes[0].pid == pid


def test_time_of_a_photo_begins_before_it_is_sent_as_its_sender_may_go_on_late(spec, metrics, monkeypatch):
    decoders, photo = Decoders(spec, BUDGET, metrics), picture_bytes(1)
    send_both, late_s = handler.decoding.send_both, []

    def send_and_stand_still(to, *both):
        began = time.monotonic()
        send_both(to, *both)
        assert select.select([to], [], [], LIMIT_S)[0]  # it has answered
        late_s.append(time.monotonic() - began)

    monkeypatch.setattr(handler.decoding, "send_both", send_and_stand_still)
    (decoded,) = crops(decoders, [photo])
    assert decoded.seconds >= late_s[0]


def read_all(one):
    return b"".join(iter(lambda: one.recv(65536), b""))


@pytest.mark.parametrize(("head", "rest"), [(24, 0), (24, 100), (0, 5_000_000), (2_000_000, 5_000_000)])
def test_both_arrive_whole_though_the_socket_takes_a_part_at_a_time(head, rest):
    sent = [os.urandom(head), os.urandom(rest)]
    ours, theirs = socket.socketpair()
    for end in (ours, theirs):
        end.settimeout(LIMIT_S)
    with theirs, ThreadPoolExecutor(1) as pool:
        received = pool.submit(read_all, theirs)
        with ours:
            send_both(ours, *sent)
        assert received.result(LIMIT_S) == b"".join(sent)


def test_what_is_to_be_done_meanwhile_is_called_once_while_photos_are_decoded_and_not_without_any(spec, metrics):
    decoders, busy = Decoders(spec, BUDGET, metrics), []
    for photos in ([picture_bytes(1)], [picture_bytes(1)] * 8, []):
        decoders.decode(photos, lambda: busy.append([len(one.jobs) for one in decoders.processes]))
    assert len(busy) == 2
    assert sorted(busy[0]) == [0, 1]
    assert all(busy[1])


CONFIG = {"batchSize": 8, "responseTimeout": 30, "handler": {"decoders": 2, "decode_memory_mb": 384, "batch_cpu_s": 1.5}}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"decoders": 0}, "decoders is 0, expected a number from 1 to 64"),
        ({"decoders": 1.5}, "decoders is 1.5, expected a whole number"),
        ({"decoders": None}, "decoders is None"),
        ({"decode_memory_mb": "384"}, "decode_memory_mb is 384, expected a number from 64"),
        ({"decode_memory_mb": 3}, "decode_memory_mb is 3, expected a number from 64"),
        ({"batch_cpu_s": 20}, "batch_cpu_s is 20, expected a number from 0.1 to 5"),
        ({"batch_cpu_s": True}, "batch_cpu_s is True"),
    ],
)
def test_budget_with_a_wrong_value_is_refused_by_name(wrong, message):
    assert Budget.from_config(CONFIG).memory == 384 * MEGABYTE
    with pytest.raises(ValueError, match=message):
        Budget.from_config(CONFIG | {"handler": CONFIG["handler"] | wrong})
