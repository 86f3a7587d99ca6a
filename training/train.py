"""Train a classifier, on one process or on several. The loop itself is training/loop.py.

    python -m training.train --model food --data PATH --out runs/mine
    python -m training.train --model food --data PATH --out runs/mine --processes 4
    torchrun --nnodes=2 --nproc-per-node=4 --max-restarts=3 ... -m training.train --model food --data PATH --out runs/mine

Hyper-parameters come from params.yaml, another file (--params) or a recipe (--recipe), which has a data set, too; without either
it trains on generated pictures, for demonstrations. With --out the same command resumes a run that was stopped or killed, from its
last saved state. Writes checkpoint.pt (the best epoch's averaged weights), history.csv and last.pt (the state) into the run's
folder, and logs to MLflow.
"""

import argparse
import os
import shlex
import signal
import sys
import time
import traceback
from contextlib import nullcontext
from pathlib import Path

from scripts.command import fail, parser, run
from scripts.errors import SeeFoodError
from training.again import STARTED_AS, Again, started_as
from training.data.loader import Batches
from training.folder import BOTH, RANK_0, STARTER, at_work, check_exists, is_latest, named_folder, new_folder
from training.launch import BY_US, end_for_good, follow_launcher, launch, number_of_processes
from training.loop import train
from training.params import Params, read_params
from training.recipes.choose import DEFAULT, add_options, fill_in
from training.remedies import PEER, WORKER, remedy
from training.resume import Stopped, read_run

TWIN_S = 3.0  # for rank 0 to print an error that all ranks have


def arguments() -> argparse.ArgumentParser:
    """The command line; see the module's docstring."""
    line = parser(__doc__)
    line.add_argument("--model", help="name to register, archive and serve the model under; with --resume the run's own")
    line.add_argument("--data", type=Path, help="class folders, alone or below folders of splits, Food-101, or split.json")
    add_options(line, default="params.yaml; with --resume the run's own, or a file that changes workers")
    line.add_argument("--weights", help="starting weights: a file, 'hub' or 'none'; default: as in the parameter file")
    line.add_argument("--out", type=Path, help="folder of the run, which is resumed if it was stopped; default: a new one in runs/")
    line.add_argument("--resume", action="store_true", help="take model name, data and parameters from the run in --out")
    line.add_argument("--start-over", action="store_true", help="start over where --out holds another run, or a finished one")
    line.add_argument("--processes", default="1", help="number of processes: that of the GPUs to train on, or of shares of the CPU")
    line.add_argument("--parent-run", help="MLflow's id of the sweep that this run belongs to")
    line.add_argument("--make", nargs="*", help="the values that make train was given: what is printed then names make")
    return line


def settings(args: argparse.Namespace, out: Path) -> tuple[str, Path | None, Params]:
    """(model name, data folder, parameters) that a run is to be trained with. ValueError as read_run and read_params."""
    if args.resume:
        name, root, params = read_run(out, args.model)
        params = read_params(args.params) if args.params else params
    else:
        name, root, params = args.model, args.data, read_params(args.params or DEFAULT)
    return name, root, params.model_copy(update={"weights": args.weights}) if args.weights else params


def train_here(args: argparse.Namespace, again: Again) -> int:
    """This process's part of a run: all of it, or one rank's. Its exit status."""
    follow_launcher()
    rank0, launched = int(os.environ.get("RANK", 0)) == 0, BY_US in os.environ
    # torchrun starts a rank that has ended again, so that it is torchrun that is to be ended
    pid = os.getppid() if "TORCHELASTIC_RUN_ID" in os.environ else os.getpid()
    try:
        with at_work(again.out, pid, RANK_0 if launched else BOTH) if rank0 else nullcontext():
            name, root, params = settings(args, again.out)
            checkpoint = train(name, root, params, again.out, args.parent_run, start_over=args.start_over)
    except Stopped as stop:
        if rank0 and not launched:
            print(again.advice(), file=sys.stderr)
        return 128 + int(stop.args[0])
    if rank0:
        run_value = "" if is_latest(again.out) else f" RUN={shlex.quote(str(again.out))}"
        print(f"{checkpoint} is written. Next: make evaluate{run_value}, make export VERSION=1.0.0{run_value}")
    return 0


def train_on_several(args: argparse.Namespace, again: Again, processes: int) -> int:
    """A run of several processes. Its exit status."""
    with at_work(again.out, os.getpid(), STARTER):
        # what would be wrong in each of them is said once, before they start
        _, _, params = settings(args, again.out)
        Batches(params.global_batch_size, params, 0, processes)
        os.environ[STARTED_AS] = shlex.join(again.started)
        status = launch(processes, [*sys.argv[1:], "--processes=1", f"--out={again.out}"])
        if status > 128:  # a signal: the ranks may have been killed before they could say it
            print(again.advice(), file=sys.stderr)
        return status


def failed(error: BaseException, again: Again) -> int:
    """Print a sentence with what to do about an error, on rank 0 if all ranks have it. The exit status."""
    if BY_US in os.environ and int(os.environ["RANK"]) > 0 and isinstance(error, ValueError | OSError):
        time.sleep(TWIN_S)  # rank 0 ends all ranks when it has printed the same
    if isinstance(error, KeyboardInterrupt):
        print(f"interrupted; {again.advice()}", file=sys.stderr)
        return 128 + getattr(error, "number", signal.SIGINT)
    if known := remedy(error):
        status = fail(f"{known.for_training}; {again.advice(with_params=bool(known.setting))}")
        if known not in (WORKER, PEER):
            end_for_good()
        return status
    if isinstance(error, SeeFoodError | ValueError | OSError):
        if BY_US not in os.environ:
            raise error
        # printed here, as the launcher ends this process at once
        status = fail(error)
        end_for_good()
        return status
    traceback.print_exc()
    return fail(f"{type(error).__name__}: see the lines above; {again.advice()}")


def main() -> int:
    """Command line; see the module's docstring."""
    line = arguments()
    args = line.parse_args()
    fill_in(args)
    if not args.resume and not args.model:
        line.error("--model is missing: a name such as food")
    if args.resume and not args.out:
        line.error("--out is missing: the folder of the run to resume")
    if not args.out and "TORCHELASTIC_RUN_ID" in os.environ:
        line.error("--out is missing: under torchrun all processes need the same folder")
    processes = number_of_processes(args.processes)
    if args.out and args.data and args.out.resolve().is_relative_to(args.data.resolve()):
        raise ValueError(f"the run's folder {args.out} is within the photos {args.data}: give one elsewhere, RUN=runs/mine (--out)")
    out = named_folder(args.out) if args.out else new_folder()
    if args.resume:
        check_exists(out)
    again = Again(out, [*started_as(), *(() if args.out else ("--out", str(out)))], args.make)
    try:
        return train_here(args, again) if processes == 1 else train_on_several(args, again, processes)
    except (Exception, KeyboardInterrupt) as error:
        return failed(error, again)


if __name__ == "__main__":
    sys.exit(run(main))
