"""The results of a sweep's trials: their histories, a table of the best, a plot of all, and best.yaml."""

import csv
from pathlib import Path
from typing import Any

import yaml
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from optuna import Study
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from scripts.atomic import aside, write_text
from scripts.phrases import counted

COLUMNS = 4  # panels a row
GOOD, PRUNED, PALE = "tab:blue", "tab:orange", "lightsteelblue"


def trial_folder(folder: Path, number: int) -> Path:
    """Where a trial trains."""
    return folder / f"trial-{number:03d}"


def read_history(run_folder: Path) -> list[dict[str, float]]:
    """A run's metrics, one row for each finished epoch."""
    try:
        text = (run_folder / "history.csv").read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(text.splitlines())]


def best_epoch(study: Study, history: list[dict[str, float]], metric: str) -> dict[str, float]:
    """The row in which the metric is best, the first of several."""
    sign = 1 if study.direction == StudyDirection.MAXIMIZE else -1
    return max(history, key=lambda row: sign * row[metric])


def ranked(study: Study) -> list[FrozenTrial]:
    """The complete trials, best first."""
    sign = -1 if study.direction == StudyDirection.MAXIMIZE else 1
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return sorted(complete, key=lambda trial: (sign * (trial.value or 0.0), trial.number))


def shown(value: object) -> str:
    """A parameter as a table shows it."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def print_table(study: Study, folder: Path, metric: str) -> None:
    """Print the five best trials with their parameters, and how many ended in which way."""
    best = ranked(study)[:5]
    names = list(best[0].params) if best else []
    rows = [["trial", metric, "epoch", *names]]
    for trial in best:
        row = best_epoch(study, read_history(trial_folder(folder, trial.number)), metric)
        rows.append([str(trial.number), f"{row[metric]:.4f}", f"{row['epoch']:.0f}", *(shown(trial.params[n]) for n in names)])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for cells in rows if best else []:
        print("  " + "  ".join(cell.rjust(width) for cell, width in zip(cells, widths, strict=True)))
    states = [trial.state for trial in study.get_trials(deepcopy=False)]
    kinds = {"complete": TrialState.COMPLETE, "ended early": TrialState.PRUNED, "failed": TrialState.FAIL}
    print(f"{counted(len(states), 'trial')}: " + ", ".join(f"{states.count(state)} {kind}" for kind, state in kinds.items()))


def write_best(study: Study, folder: Path, metric: str) -> None:
    """best.yaml, the parameters of the best trial, if one is complete."""
    for trial in ranked(study)[:1]:
        params = yaml.safe_load((trial_folder(folder, trial.number) / "params.yaml").read_text(encoding="utf-8"))
        head = f"# The best of {folder}: trial {trial.number}, {metric} {trial.value:.4f}. make train PARAMS={folder}/best.yaml\n"
        write_text(folder / "best.yaml", head + yaml.safe_dump(params, sort_keys=False))


def plot_progress(axes: Axes, study: Study, trials: list[FrozenTrial], metric: str) -> None:
    """Each trial's metric, and the best so far."""
    best = max if study.direction == StudyDirection.MAXIMIZE else min
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    so_far = [best(t.value or 0.0 for t in complete[: i + 1]) for i in range(len(complete))]
    if complete:
        x = [*(trial.number for trial in complete), trials[-1].number]
        axes.step(x, [*so_far, so_far[-1]], where="post", color=GOOD, label="best so far")
    scatter(axes, [trial.number for trial in trials], trials)
    axes.set(xlabel="trial", ylabel=metric, title="Trials in order")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend()


def plot_curves(axes: Axes, study: Study, trials: list[FrozenTrial], folder: Path, metric: str) -> None:
    """The metric by epoch of each trial, the best one on top."""
    best = ranked(study)[0].number if ranked(study) else None
    for trial in sorted(trials, key=lambda t: t.number == best):
        history = read_history(trial_folder(folder, trial.number))
        style: dict[str, Any] = {"color": PALE} if trial.state == TrialState.COMPLETE else {"color": PRUNED, "alpha": 0.5}
        if trial.number == best:
            style = {"color": GOOD, "linewidth": 2, "label": f"trial {best}, the best"}
        axes.plot([row["epoch"] for row in history], [row[metric] for row in history], marker=".", **style)
    axes.set(xlabel="epoch", ylabel=metric, title="Learning curves")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if best is not None:
        axes.legend()


def scatter(axes: Axes, x: list[Any], trials: list[FrozenTrial]) -> None:
    """A point for each trial, hollow ones for those that were ended early, at their last epoch's value."""
    for state, colour, label in ((TrialState.COMPLETE, GOOD, "complete"), (TrialState.PRUNED, PRUNED, "ended early")):
        points = [(a, trial.value) for a, trial in zip(x, trials, strict=True) if trial.state == state]
        if points:
            fill = colour if state == TrialState.COMPLETE else "none"
            axes.scatter(*zip(*points, strict=True), facecolors=fill, edgecolors=colour, label=label)


def plot_parameter(axes: Axes, name: str, trials: list[FrozenTrial], log: bool) -> None:
    """One parameter against the metric."""
    values = [trial.params[name] for trial in trials]
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        scatter(axes, values, trials)
        axes.set_xscale("log" if log else "linear")
    else:
        names = sorted({str(value) for value in values})
        scatter(axes, [names.index(str(value)) for value in values], trials)
        axes.set_xticks(range(len(names)), names)
        axes.set_xlim(-0.5, len(names) - 0.5)
    axes.set_xlabel(name)


def plot(study: Study, folder: Path, metric: str, log_scaled: set[str]) -> Path | None:
    """sweep.png: progress, learning curves, and each parameter against the metric; None while no trial has ended."""
    trials = [trial for trial in study.get_trials(deepcopy=False) if trial.state.is_finished() and trial.value is not None]
    if not trials:
        return None
    names = list(trials[0].params)
    # Figure, not pyplot: no window system, no global list of figures that grows with each trial
    rows = 1 + (len(names) + COLUMNS - 1) // COLUMNS
    figure = Figure(figsize=(4 * COLUMNS, 3.6 * rows), layout="constrained")
    grid = figure.add_gridspec(rows, COLUMNS)
    plot_progress(figure.add_subplot(grid[0, : COLUMNS // 2]), study, trials, metric)
    plot_curves(figure.add_subplot(grid[0, COLUMNS // 2 :]), study, trials, folder, metric)
    for position, name in enumerate(names):
        axes = figure.add_subplot(grid[1 + position // COLUMNS, position % COLUMNS])
        plot_parameter(axes, name, trials, name in log_scaled)
        if position % COLUMNS == 0:
            axes.set_ylabel(metric)
    with aside(folder / "sweep.png") as part:
        figure.savefig(part, dpi=100, format="png")
    return folder / "sweep.png"
