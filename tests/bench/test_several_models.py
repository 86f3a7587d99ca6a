"""What several models cost each other, beside the peace around each measurement; the servers are for make bench-models."""

import contextlib

import pytest

from scripts.bench.result import Result
from scripts.bench.several_models import in_turns, ratios


def test_a_figure_stands_beside_the_mean_of_the_peace_around_it():
    assert ratios([150, 220, 100], [100, 200, 200, 300]) == "1.00 times that of peace (0.40 to 1.10, 3 pairs)"


def test_peace_and_the_other_take_turns_and_a_drift_of_the_machine_is_no_cost(capsys):
    busy, measured = [], iter(range(100, 150, 10))  # a machine that gets slower

    @contextlib.contextmanager
    def meanwhile(number):
        busy.append(number)
        yield

    def measure():
        return Result("closed", 2, 1.0, latencies_ms=[float(next(measured))], answered=5)

    in_turns(measure, 2, "a flood", meanwhile)
    lines = capsys.readouterr().out.splitlines()
    assert busy == [0, 1]
    assert [line.split("   ")[-1] for line in lines[:5]] == ["nothing", "a flood", "nothing", "a flood", "nothing"]
    assert lines[5] == "a flood, p99: 1.00 times that of peace (1.00 to 1.00, 2 pairs)"


def test_a_measurement_without_an_answer_shows(capsys):
    with pytest.raises(StopIteration):
        in_turns(iter([Result("closed", 2, 1.0)]).__next__, 1, "a flood", lambda _: contextlib.nullcontext())
    assert "nan" in capsys.readouterr().out
