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

from scripts.command import parser, run
from training.loop import train
from training.params import read_params
from training.resume import Stopped, read_run


def main() -> int:
    """Command line; see the module's docstring."""
    arguments = parser(__doc__)
    arguments.add_argument("--model", help="name to register, archive and serve the model under; with --resume the run's own")
    arguments.add_argument("--data", type=Path, help="Food-101, a folder of class folders, train/ and test/ folders, or split.json")
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
    except RuntimeError:
        # e.g. after another rank's death. Returned, not raised: at an exception Python would wait for the loader's workers
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(run(main, "the same command resumes the run from its last saved state, if it has one"))
