"""One page of a run's evaluation: `python -m training.evaluation.report runs/latest` (make report) writes runs/latest/report.html.

The page contains its pictures: it is one file to send, and needs no network.
"""

import base64
import csv
import json
import sys
from collections.abc import Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from scripts.atomic import write_text
from scripts.command import parser, run
from scripts.phrases import counted
from training.folder import check_exists
from training.model import Checkpoint
from training.tracking.journal import Tracker

PICTURES = {
    "learning_curves.png": "Learning curves",
    "reliability.png": "Calibration",
    "confusion.png": "Confusions",
    "mistakes.png": "Most confident mistakes (true → predicted)",
}
MOST_LISTED, LISTED = 250, 20  # of more classes than that, those with the lowest and the highest F1 are listed
# a Template and not str.format: CSS is full of braces
PAGE = Template("""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
  :root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
  body { max-width: 68rem; margin: 2rem auto; padding: 0 1rem; }
  h1 { margin-bottom: 0; } h2 { margin-top: 2.5rem; }
  .metrics { display: flex; flex-wrap: wrap; gap: 1rem; margin: 1.5rem 0; }
  .metrics div { flex: 1 1 9rem; padding: 1rem; border-radius: .6rem; background: #8882; }
  .metrics b { display: block; font-size: 1.8rem; line-height: 1.2; }
  img { max-width: 100%; border-radius: .4rem; background: white; cursor: zoom-in; }
  input:checked + img { max-width: none; cursor: zoom-out; }
  .wide { display: block; overflow-x: auto; }
  table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
  th, td { padding: .25rem .7rem; text-align: right; border-bottom: 1px solid #8884; }
  th:first-child, td:first-child, td:nth-child(2), .text { text-align: left; }
  .text { overflow-wrap: anywhere; }
  footer { margin: 3rem 0; opacity: .7; }
</style>
<h1>$title</h1>
<p>$summary</p>
<div class="metrics">$metrics</div>
<p>$calibration</p>
<p>Click a picture to see it at full size, click it again to fit it to the page.</p>
$pictures
$out_of_distribution
$groups
<h2>Classes, lowest F1 first</h2>
<div class="wide"><table>$classes</table></div>
<h2>Provenance and hyper-parameters</h2>
<div class="wide"><table>$provenance</table></div>
<footer>Written by <code>make report RUN=$run</code> from the results of <code>make evaluate RUN=$run</code>.</footer>
</html>
""")


def row(cells: list[object], tag: str = "td") -> str:
    """A table's row."""
    # escaped: a label is the name of a folder and may contain < or &
    return "<tr>" + "".join(f"<{tag}>{escape(str(cell))}</{tag}>" for cell in cells) + "</tr>"


def picture(path: Path, heading: str) -> str:
    """A picture within the page, under its heading; a line of text if the file is missing."""
    if not path.is_file():
        return f"<h2>{heading}</h2>\n<p>Not available: {escape(path.name)} is not in the folder of this run.</p>"
    data = base64.b64encode(path.read_bytes()).decode()
    # a checkbox and CSS instead of JavaScript, which mail programs and many viewers block
    image = f'<input type="checkbox" hidden><img alt="{heading}" src="data:image/png;base64,{data}">'
    return f'<h2>{heading}</h2>\n<label class="wide" title="click for full size">{image}</label>'


def out_of_distribution(run_folder: Path, metrics: dict[str, Any]) -> str:
    """The results of make evaluate UNKNOWN=folder; empty if it ran without UNKNOWN."""
    if "out_of_distribution" not in metrics:
        return ""
    found = metrics["out_of_distribution"]
    rate = f"{100 * found['false_positive_rate']:g} %"
    rows = [row(["score", "AUROC", f"detected at {rate} false positive rate"], "th")]
    for name, score in found["scores"].items():
        rows.append(row([name, f"{score['auroc']:.4f}", f"{100 * score['detected_at_5_percent_fpr']:.1f} %"]))
    left_out = f" ({found['left_out']} could not be read)" if found["left_out"] else ""
    text = (
        f"{counted(found['photos'], 'photo')} of {escape(found['unknown'])}{left_out}, compared with the held-out photos. "
        f"An answer has low confidence if the {escape(found['score'])} is below the threshold. "
        f"At most {rate} of photos like the held-out ones are "
        "below it: the false positive rate. AUROC is the probability that a held-out photo scores higher than an "
        "out-of-distribution one."
    )
    section = picture(run_folder / "confidence.png", "Out-of-distribution photos")
    return f'{section}\n<p>{text}</p>\n<div class="wide"><table>{"".join(rows)}</table></div>'


def provenance(checkpoint: Checkpoint) -> str:
    """Table rows: commit, epoch and data of the model, and all its hyper-parameters."""
    data = checkpoint.data
    facts: dict[str, Any] = {"commit": checkpoint.git, "epoch": checkpoint.epoch, "data": data["source"]}
    facts |= {"data fingerprint": data["fingerprint"], "training photos": data["train"], "held-out photos": data["held_out"]}
    # root is left out: it is a path of one machine, and the page is sent to others
    shown = {"source", "root", "fingerprint", "train", "held_out"}
    facts |= {name: value for name, value in data.items() if name not in shown}
    return "".join(
        f'<tr><td>{escape(k)}</td><td class="text">{escape(str(v))}</td></tr>' for k, v in (facts | checkpoint.params).items()
    )


def calibration(metrics: dict[str, Any]) -> str:
    """A sentence or two about the calibration error and the temperature."""
    before, after = (f"{100 * metrics[name]:.1f} %" for name in ("calibration_error_before", "calibration_error"))
    temperature = f"{metrics['temperature']:.2f}"
    fitted, photos = metrics["temperature_photos"], metrics["photos"]
    if fitted is None:
        note = "This checkpoint does not record whether its temperature was fitted on some of these photos."
    elif fitted:
        which = "these photos" if fitted >= photos else f"{fitted} of these photos"
        note = f"The temperature was fitted on {which}, and the epoch chosen by them, so the results are slightly optimistic."
    else:
        note = "The temperature was fitted on other photos."
    chance = ""
    if "calibration_error_by_chance" in metrics:  # evaluations of earlier versions lack it
        by_chance = f"{100 * metrics['calibration_error_by_chance']:.1f} %"
        chance = f" A calibrated model shows {by_chance} on {counted(photos, 'photo')} by chance."
    return f"Expected calibration error: {before} before temperature scaling, {after} after it (T = {temperature}).{chance} {note}"


def parts_of_metrics(run_folder: Path, metrics: dict[str, Any]) -> dict[str, str]:
    """The parts of the page that metrics.json fills. KeyError for what it lacks."""
    shown = {"top-1": "top1", "top-5": "top5", "F1 (macro)": "f1", "calibration error": "calibration_error"}
    photos = counted(metrics["photos"], f"{metrics.get('split', 'held-out')} photo")
    return {
        "summary": f"{photos} of {escape(metrics['data'])}, none of them trained on.",
        "metrics": "".join(f"<div><b>{100 * metrics[key]:.1f} %</b>{name}</div>" for name, key in shown.items()),
        "calibration": calibration(metrics),
        "out_of_distribution": out_of_distribution(run_folder, metrics),
    }


def numbered(rows: list[list[str]], labels: Sequence[str]) -> list[list[str]]:
    """Each row of per_class.csv with the number of its class, as pictures name it whose fonts lack its letters.

    Of more than MOST_LISTED classes the first and the last LISTED, with a row between that says so.
    """
    numbers = {label: str(number) for number, label in enumerate(labels)}
    found = [[numbers.get(row[0], ""), *row] for row in rows]
    if len(found) <= MOST_LISTED:
        return found
    left = f"{len(found) - 2 * LISTED:,} more in per_class.csv"
    return [*found[:LISTED], ["…", left, *[""] * (len(found[0]) - 2)], *found[-LISTED:]]


def groups(run_folder: Path) -> str:
    """The table of per_group.csv, of many groups the lowest LISTED; empty where photos have no groups."""
    if not (run_folder / "per_group.csv").is_file():
        return ""
    with (run_folder / "per_group.csv").open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    more = f"<p>{len(rows) - LISTED:,} more in per_group.csv.</p>" if len(rows) > LISTED else ""
    table = row([name.replace("_", " ") for name in header], "th") + "".join(row([*cells]) for cells in rows[:LISTED])
    text = "top1 low and top1 high: the 95 % interval of top-1. A group of few photos tells little."
    return f'<h2>Groups, lowest top-1 first</h2>\n<p>{text}</p>\n<div class="wide"><table>{table}</table></div>{more}'


def write_report(run_folder: Path) -> Path:
    """Write report.html into the folder of a run and return its path.

    ValueError if the run was not evaluated, or by a version of this project whose metrics.json had other keys.
    """
    check_exists(run_folder)
    if not (run_folder / "metrics.json").is_file():
        raise ValueError(f"{run_folder} has no metrics.json: make evaluate RUN={run_folder} first")
    try:
        parts = parts_of_metrics(run_folder, json.loads((run_folder / "metrics.json").read_text(encoding="utf-8")))
    except (ValueError, TypeError, KeyError) as error:
        missing = f"has no {error}" if isinstance(error, KeyError) else f"cannot be read: {error}"
        raise ValueError(f"{run_folder}/metrics.json {missing}: make evaluate RUN={run_folder} writes it again") from error
    checkpoint = Checkpoint.load(run_folder / "checkpoint.pt")
    with (run_folder / "per_class.csv").open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    header, rows = ["#", *header], numbered(rows, checkpoint.labels)
    named = f"{checkpoint.name}: " if checkpoint.name else ""  # checkpoints of before names have none
    page = PAGE.substitute(
        title=escape(f"{named}{checkpoint.params['model']} on {counted(len(checkpoint.labels), 'class')}"),
        pictures="\n".join(picture(run_folder / name, heading) for name, heading in PICTURES.items()),
        classes=row([name.replace("_", " ") for name in header], "th") + "".join(row([*cells]) for cells in rows),
        groups=groups(run_folder),
        provenance=provenance(checkpoint),
        run=escape(str(run_folder)),
        **parts,
    )
    write_text(run_folder / "report.html", page)
    return run_folder / "report.html"


def main() -> None:
    """Command line; see the module's docstring."""
    arguments = parser(__doc__)
    arguments.add_argument("run", type=Path, help="folder of a run that was evaluated")
    run_folder = arguments.parse_args().run
    page = write_report(run_folder)
    if (run_folder / "history.csv").is_file():
        tracker = Tracker(run_folder)
        tracker.log_artifact(page)
        tracker.close()
    print(f"{page} is written: open it in a browser")


if __name__ == "__main__":
    sys.exit(run(main, "report.html is as it was"))
