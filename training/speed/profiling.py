"""Where the time of a training step goes: `python -m training.speed.profiling --data photos`, or `make profile DATA=photos`.

Runs some steps of training/loop.py under torch's profiler, writes build/profile/trace.json (for chrome://tracing or
ui.perfetto.dev) and prints the costliest operations.
"""

import os
import sys
import tempfile
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, schedule

from scripts.command import parser, run
from training.loop import train
from training.params import Params, read_params
from training.recipes.choose import DEFAULT, add_options, fill_in
from training.resume import Stopped

WARM_UP, STEPS = 3, 5


def profile_steps(root: Path | None, params: Params, trace: Path) -> str:
    """A table of the costliest operations in STEPS steps; their trace is written to `trace`. ValueError as train()."""
    cuda = torch.cuda.is_available()
    activities = [ProfilerActivity.CPU, ProfilerActivity.CUDA] if cuda else [ProfilerActivity.CPU]
    profiler = profile(activities=activities, schedule=schedule(wait=WARM_UP - 1, warmup=1, active=STEPS))

    def on_step(step: int) -> None:
        # the loop has no end after some steps, so it is stopped as by a signal
        if step < WARM_UP + STEPS:
            profiler.step()
        else:
            raise Stopped(0)

    # enough epochs for the steps, however few photos there are; no save in between, which would be in the trace
    params = params.model_copy(update={"epochs": WARM_UP + STEPS + 1, "checkpoint_minutes": 60.0})
    trace.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as out:
        profiler.start()
        try:
            train("profile", root, params, Path(out) / "profile", on_step=on_step)
        except Stopped:
            profiler.stop()
    profiler.export_chrome_trace(str(trace))
    return str(profiler.key_averages().table(sort_by="self_device_time_total" if cuda else "self_cpu_time_total", row_limit=15))


def main() -> None:
    """Command line; see the module's docstring."""
    arguments = parser(__doc__)
    arguments.add_argument("--data", type=Path)
    add_options(arguments)
    arguments.add_argument("--weights", help="starting weights: a file, 'hub' or 'none'; default: as in the parameter file")
    arguments.add_argument("--trace", type=Path, default=Path("build/profile/trace.json"))
    args = arguments.parse_args()
    fill_in(args)
    os.environ["MLFLOW_TRACKING_URI"] = "none"  # MLflow keeps no profiles
    params = read_params(args.params or DEFAULT)
    params = params.model_copy(update={"weights": args.weights or params.weights})
    print(profile_steps(args.data, params, args.trace))
    print(f"{args.trace} holds {STEPS} steps: open it at ui.perfetto.dev or chrome://tracing")


if __name__ == "__main__":
    sys.exit(run(main))
