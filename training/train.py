"""Train a classifier, on one process or under torchrun. The loop itself is training/loop.py.

    python -m training.train --model food --data PATH --out runs/mine
    torchrun --nproc-per-node=2 --max-restarts=3 -m training.train --model food --data PATH --out runs/mine

Hyper-parameters come from params.yaml; without --data it trains on generated pictures, for demonstrations. The same command
resumes a run that was stopped or killed from its last saved state. Writes checkpoint.pt (the best epoch's averaged weights),
history.csv and last.pt (the state) into --out, and logs to MLflow.
"""

import sys
import traceback
from pathlib import Path

from scripts.command import fail, parser, run
from scripts.errors import SeeFoodError
from training.loop import train
from training.params import read_params
from training.resume import Stopped, read_run

RESUMES = "the same command resumes the run from its last saved state, if it has one"
# what to do, by a part of the message, the first that is found
REMEDIES = {
    "shared memory": "the loader's workers ran out of shared memory (/dev/shm): docker run --shm-size=1g, or workers: 0",
    "DataLoader worker": "a worker of the loader was killed, most often for want of memory: fewer workers, or smaller crops",
    "out of memory": "the GPU's memory is too small for these crops: a smaller global_batch_size, or accumulate: 2",
    "can't allocate memory": "there is too little memory for these crops: a smaller global_batch_size, or accumulate: 2",
    "closed by peer": "another process of this run ended, see its error above; if there is none, it ran out of memory",
    "reset by peer": "another process of this run ended, see its error above; if there is none, it ran out of memory",
}


def what_to_do(message: str) -> str:
    """A sentence for an error of torch's."""
    remedy = next((text for part, text in REMEDIES.items() if part in message), "see the lines above")
    return f"{remedy}; then {RESUMES}"


def main() -> int:
    """Command line; see the module's docstring."""
    arguments = parser(__doc__)
    arguments.add_argument("--model", help="name to register, archive and serve the model under; with --resume the run's own")
    arguments.add_argument("--data", type=Path, help="class folders, alone or below folders of splits, Food-101, or split.json")
    arguments.add_argument("--params", type=Path, default=Path("params.yaml"))
    arguments.add_argument("--weights", help="starting weights: a file, 'hub' or 'none'; default: as in the parameter file")
    arguments.add_argument("--out", type=Path, required=True, help="folder of the run; a run that was stopped there is resumed")
    arguments.add_argument("--resume", action="store_true", help="take model name, data and parameters from the run in --out")
    arguments.add_argument("--start-over", action="store_true", help="start over where --out holds another run, or a finished one")
    arguments.add_argument("--parent-run", help="MLflow's id of the sweep that this run belongs to")
    args = arguments.parse_args()
    if args.resume:
        name, root, params = read_run(args.out, args.model)
    elif args.model:
        name, root, params = args.model, args.data, read_params(args.params)
    else:
        arguments.error("--model is missing: a name such as food")
    if args.weights:
        params = params.model_copy(update={"weights": args.weights})
    try:
        train(name, root, params, args.out, args.parent_run, start_over=args.start_over)
    except Stopped as stop:
        return 128 + int(stop.args[0])
    except (SeeFoodError, ValueError):
        raise
    except Exception as error:
        # a full disk has its own words; a broken connection is that to a worker of the loader, or to another rank
        if isinstance(error, OSError) and not isinstance(error, ConnectionError):
            raise
        traceback.print_exc()
        return fail(f"{type(error).__name__}: {what_to_do(str(error))}")
    return 0


if __name__ == "__main__":
    sys.exit(run(main, RESUMES))
