"""`make bench-start` on a small model: each start is measured until its first right answer."""

import shutil
from argparse import Namespace

import pytest

from scripts.backend.torchserve.versions import read_golden
from scripts.bench.server import BenchError, free_port, run_dir_of
from scripts.bench.start import PARTS, bench, start


@pytest.mark.slow
@pytest.mark.server
def test_starts_are_measured_with_the_cpu_of_each_part(packed, capsys):
    bench(Namespace(model_store=packed, model=None, rounds=1))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "seefood-1.0.0.mar, 1 start"
    figures = dict(zip(("start", "seconds", "cpu_s", *PARTS), lines[-1].split(), strict=True))
    assert figures["start"] == "median"
    assert float(figures["seconds"]) > 0
    assert all(float(figures[part]) > 0 for part in PARTS)
    assert float(figures["cpu_s"]) == pytest.approx(sum(float(figures[part]) for part in PARTS), abs=0.03)


@pytest.mark.slow
@pytest.mark.server
def test_server_that_does_not_start_is_shown(exported, tmp_path):
    archive = tmp_path / "seefood-1.0.0.mar"
    archive.write_bytes(b"no archive")
    port = free_port()
    try:
        with pytest.raises(BenchError, match="gives no right answer:"):
            start(archive, port, read_golden(exported))
    finally:
        shutil.rmtree(run_dir_of(port), ignore_errors=True)
