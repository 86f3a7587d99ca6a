"""Where the time of a training step goes: `python -m training.speed.profiling --data photos`, or `make profile DATA=photos`.

Runs some steps of training/train.py under torch's profiler, writes build/profile/trace.json (for chrome://tracing or
ui.perfetto.dev) and prints the costliest operations.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, schedule

from training.params import Params, read_params
from training.resume import Stopped
from training.train import train

WARM_UP, STEPS = 3, 5


def profile_steps(root: Path | None, params: Params, trace: Path) -> str:
    """A table of the costliest operations in STEPS steps; their trace is written to `trace`. ValueError as train()."""
    cuda = torch.cuda.is_available()
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    profiler = profile(activities=activities, schedule=schedule(wait=WARM_UP - 1, warmup=1, active=STEPS))

    def on_step(step: int) -> None:
        if step < WARM_UP + STEPS:
            profiler.step()
        else:
            raise Stopped(0)

    # enough epochs for the steps, however few photos there are
    params = params.model_copy(update={"epochs": WARM_UP + STEPS + 1, "checkpoint_minutes": 60.0})
    trace.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as out:
        profiler.start()
        try:
            train(root, params, Path(out) / "profile", on_step=on_step)
        except Stopped:
            profiler.stop()
    profiler.export_chrome_trace(str(trace))
    return str(profiler.key_averages().table(sort_by="self_device_time_total" if cuda else "self_cpu_time_total", row_limit=15))


def main() -> int:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--weights", help="as in training/train.py")
    parser.add_argument("--trace", type=Path, default=Path("build/profile/trace.json"))
    args = parser.parse_args()
    os.environ["MLFLOW_TRACKING_URI"] = "none"  # a profile is no run to keep
    try:
        params = read_params(args.params)
        params = params.model_copy(update={"weights": args.weights or params.weights})
        print(profile_steps(args.data, params, args.trace))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{args.trace} holds {STEPS} steps: open it at ui.perfetto.dev or chrome://tracing")
    return 0


if __name__ == "__main__":
    sys.exit(main())
