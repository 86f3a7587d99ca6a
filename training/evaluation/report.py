"""One page of a run's evaluation: `python -m training.evaluation.report runs/latest` (make report) writes runs/latest/report.html.

The page holds its pictures: it can be mailed, and needs no network.
"""

import argparse
import base64
import csv
import json
import sys
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from training.model import Checkpoint
from training.tracking.journal import Tracker

PICTURES = {
    "learning_curves.png": "Learning curves",
    "reliability.png": "Is its confidence deserved?",
    "confusion.png": "What is taken for what",
    "mistakes.png": "The mistakes it is surest of",
}
PAGE = Template("""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
  :root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
  body { max-width: 68rem; margin: 2rem auto; padding: 0 1rem; }
  h1 { margin-bottom: 0; } h2 { margin-top: 2.5rem; }
  .figures { display: flex; flex-wrap: wrap; gap: 1rem; margin: 1.5rem 0; }
  .figures div { flex: 1 1 9rem; padding: 1rem; border-radius: .6rem; background: #8882; }
  .figures b { display: block; font-size: 1.8rem; line-height: 1.2; }
  img { max-width: 100%; border-radius: .4rem; background: white; cursor: zoom-in; }
  input:checked + img { max-width: none; cursor: zoom-out; }
  .wide { display: block; overflow-x: auto; }
  table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
  th, td { padding: .25rem .7rem; text-align: right; border-bottom: 1px solid #8884; }
  th:first-child, td:first-child, .text { text-align: left; }
  .text { overflow-wrap: anywhere; }
  footer { margin: 3rem 0; opacity: .7; }
</style>
<h1>$title</h1>
<p>$summary</p>
<div class="figures">$figures</div>
<p>$calibration</p>
<p>A click shows a picture at its full size, another one makes it fit again.</p>
$pictures
$confidence
<h2>Each class, the worst first</h2>
<div class="wide"><table>$classes</table></div>
<h2>How it was made</h2>
<div class="wide"><table>$made</table></div>
<footer>Written by <code>make report RUN=$run</code> from what <code>make evaluate RUN=$run</code> measured.</footer>
</html>
""")


def row(cells: list[object], tag: str = "td") -> str:
    """A table's row."""
    return "<tr>" + "".join(f"<{tag}>{escape(str(cell))}</{tag}>" for cell in cells) + "</tr>"


def picture(path: Path, heading: str) -> str:
    """A picture under its heading, in the page itself, or a line that it is not there."""
    if not path.is_file():
        return f"<h2>{heading}</h2>\n<p>Not there: this folder has no {escape(path.name)}.</p>"
    data = base64.b64encode(path.read_bytes()).decode()
    image = f'<input type="checkbox" hidden><img alt="{heading}" src="data:image/png;base64,{data}">'
    return f'<h2>{heading}</h2>\n<label class="wide" title="click for full size">{image}</label>'


def confidence(run: Path, metrics: dict[str, Any]) -> str:
    """What make evaluate UNKNOWN=folder found; nothing where it was not asked."""
    if "out_of_distribution" not in metrics:
        return ""
    found = metrics["out_of_distribution"]
    rate = f"{100 * found['false_alarm_rate']:g} %"
    rows = [row(["score", "AUROC", f"caught at {rate} false alarms"], "th")]
    for name, figures in found["scores"].items():
        rows.append(row([name, f"{figures['auroc']:.4f}", f"{100 * figures['caught_at_5_percent']:.1f} %"]))
    left_out = f" ({found['left_out']} could not be read)" if found["left_out"] else ""
    words = (
        f"{found['photos']} photos of {escape(found['unknown'])}{left_out} beside the held-out ones. An answer is unsure where "
        f"the {escape(found['score'])} is below the threshold, which at most {rate} of photos like the held-out ones are. "
        "AUROC: how often a known dish scores higher than anything else."
    )
    heading = "Does it know when it does not know?"
    return f'{picture(run / "confidence.png", heading)}\n<p>{words}</p>\n<div class="wide"><table>{"".join(rows)}</table></div>'


def made(checkpoint: Checkpoint) -> str:
    """Where the model comes from, and all its hyper-parameters."""
    data = checkpoint.data
    facts: dict[str, Any] = {"commit": checkpoint.git, "epoch": checkpoint.epoch, "data": data["source"]}
    facts |= {"data fingerprint": data["fingerprint"], "photos trained on": data["train"], "photos held out": data["held_out"]}
    facts |= {name: value for name, value in data.items() if name not in ("source", "root", "fingerprint", "train", "held_out")}
    return "".join(
        f'<tr><td>{escape(k)}</td><td class="text">{escape(str(v))}</td></tr>' for k, v in (facts | checkpoint.params).items()
    )


def write_report(run: Path) -> Path:
    """Write report.html into the folder of a run and return its path. ValueError if the run was not evaluated."""
    if not (run / "metrics.json").is_file():
        raise ValueError(f"{run} has no metrics.json: make evaluate RUN={run} first")
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    checkpoint = Checkpoint.load(run / "checkpoint.pt")
    shown = {"top-1": "top1", "top-5": "top5", "F1 (macro)": "f1", "calibration error": "calibration_error"}
    with (run / "per_class.csv").open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    fitted = (
        "It was fitted on these very photos, whose error after it is therefore a little too good."
        if metrics["temperature_fitted_on_these"]
        else "It was fitted on other photos."
    )
    page = PAGE.substitute(
        title=f"{escape(checkpoint.params['model'])} on {len(checkpoint.labels)} classes",
        summary=f"{metrics['photos']} photos never trained on, of {escape(metrics['data'])}.",
        figures="".join(f"<div><b>{100 * metrics[key]:.1f} %</b>{name}</div>" for name, key in shown.items()),
        calibration=f"Calibration error before the temperature of {metrics['temperature']:.2f}: "
        f"{100 * metrics['calibration_error_before']:.1f} %, after it: {100 * metrics['calibration_error']:.1f} %. {fitted}",
        pictures="\n".join(picture(run / name, heading) for name, heading in PICTURES.items()),
        confidence=confidence(run, metrics),
        classes=row([name.replace("_", " ") for name in header], "th") + "".join(row([*cells]) for cells in rows),
        made=made(checkpoint),
        run=escape(str(run)),
    )
    part = run / "report.html.part"
    part.write_text(page, encoding="utf-8")
    part.replace(run / "report.html")
    return run / "report.html"


def main() -> int:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a run that was evaluated")
    run = parser.parse_args().run
    try:
        page = write_report(run)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if (run / "history.csv").is_file():
        tracker = Tracker(run)
        tracker.log_artifact(page)
        tracker.close()
    print(f"{page} is written: open it in a browser")
    return 0


if __name__ == "__main__":
    sys.exit(main())
