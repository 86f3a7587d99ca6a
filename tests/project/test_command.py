import os
import signal
import subprocess
import sys

import pytest

from scripts.command import run
from scripts.errors import SeeFoodError
from tests.conftest import ROOT
from tests.project.imports import is_command, read_sources

TAIL = "from scripts.command import run\nsys.exit(run(main, 'nothing was written'))\n"


def command(body, shell="{}"):
    """A process that runs `body` as its main; stdout and stderr as text."""
    code = f"import sys, time\ndef main():\n    {body}\n{TAIL}"
    return subprocess.Popen(
        shell.format(f'{sys.executable} -c "$CODE"'),
        shell=True,
        cwd=ROOT,
        env={**os.environ, "CODE": code},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("error", [SeeFoodError("no photo"), ValueError("no photo"), OSError("no photo")])
def test_error_for_a_person_is_one_line_on_stderr_and_status_1(error, capsys):
    def main():
        raise error

    assert run(main) == 1
    assert capsys.readouterr() == ("", "error: no photo\n")


def test_fault_of_ours_keeps_its_traceback():
    with pytest.raises(KeyError):
        run(lambda: {}["a"])


def test_status_is_what_main_returns():
    assert [run(lambda: None), run(lambda: 0), run(lambda: 3)] == [0, 0, 3]


def test_interruption_says_nothing_of_a_zip_that_it_left_half_written():
    body = "import io, os, zipfile; z = zipfile.ZipFile(io.BytesIO(), 'w'); z.handle = z.open('a', 'w'); os.kill(os.getpid(), 15)"
    _, errors = command(body).communicate()
    assert errors == "interrupted: nothing was written\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signal_interrupts_as_ctrl_c_does(number):
    process = command("print('on', flush=True); time.sleep(60)", "exec {}")
    assert process.stdout.readline() == "on\n"
    process.send_signal(number)
    _, errors = process.communicate()
    assert errors == "interrupted: nothing was written\n"
    assert process.returncode == 128 + number


def test_interruption_counts_where_cleaning_up_after_it_raises_another_error(capsys):
    def main():
        try:
            raise KeyboardInterrupt
        finally:
            raise ValueError("can't close the file")

    assert run(main, "nothing was written") == 130
    assert capsys.readouterr() == ("", "interrupted: nothing was written\n")


def test_closed_terminal_does_not_end_what_nohup_started():
    process = command("print('on', flush=True); time.sleep(1); print('done')", "exec nohup {}")
    assert process.stdout.readline() == "on\n"
    process.send_signal(signal.SIGHUP)
    output, _ = process.communicate()
    assert (output, process.returncode) == ("done\n", 0)


def test_reader_that_goes_away_ends_the_command_without_a_traceback():
    process = command("[print('line', i) for i in range(100_000)]", "({}; echo status $? >&2) | head -1")
    output, errors = process.communicate()
    assert output == "line 0\n"
    assert errors == f"status {128 + signal.SIGPIPE}\n"


def test_closed_output_is_no_fault():
    process = command("print('nobody reads this')", "{} >&-")
    _, errors = process.communicate()
    assert (errors, process.returncode) == ("", 0)


def test_signals_are_handled_as_before_when_the_command_has_ended():
    before = signal.getsignal(signal.SIGTERM)
    run(lambda: 0)
    assert signal.getsignal(signal.SIGTERM) is before


def commands():
    """Every module that is run with `python -m`."""
    sources = read_sources()
    return sorted(module for module, source in sources.items() if is_command(source) and module != "scripts.install")


# a stand-in for torch and all else that takes seconds to import: whatever is imported first that is not Python's own
SLOW_IMPORT = """
import importlib.abc, sys, time

class Slow(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        top = name.partition(".")[0]
        if top not in sys.stdlib_module_names and top not in ("training", "scripts") and "-m" in sys.orig_argv:
            print("imports", name, flush=True)
            time.sleep(600)

sys.meta_path.insert(0, Slow())
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("module", ["training.train", "training.evaluation.evaluate", "scripts.bench.bench"])
def test_signal_during_imports_is_one_sentence(tmp_path, module, number):
    interrupt_imports(tmp_path, module, number)


@pytest.mark.slow
@pytest.mark.parametrize("module", commands())
def test_signal_during_imports_is_one_sentence_for_every_command(tmp_path, module):
    interrupt_imports(tmp_path, module, signal.SIGINT)


def interrupt_imports(tmp_path, module, number):
    (tmp_path / "sitecustomize.py").write_text(SLOW_IMPORT)
    process = subprocess.Popen(
        [sys.executable, "-m", module],
        env=os.environ | {"PYTHONPATH": f"{tmp_path}:{ROOT}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    if not process.stdout.readline():
        pytest.skip("it imports nothing but Python's own modules")
    process.send_signal(number)
    _, errors = process.communicate()
    assert (process.returncode, errors) == (128 + number, "interrupted\n")


def test_package_of_commands_leaves_another_programs_signals_alone():
    code = "import signal, training, scripts; print(signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT).__name__)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "0 default_int_handler\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_interruption_that_python_cannot_raise_where_it_comes_is_not_lost(number):
    body = f"class A:\n        def __del__(self):\n            import os; os.kill(os.getpid(), {int(number)}); time.sleep(9)\n"
    process = command(f"{body}    A()\n    time.sleep(600)")
    _, errors = process.communicate()
    assert (process.returncode, errors) == (128 + number, "interrupted: nothing was written\n")
