"""Write Grafana's dashboards into scripts/monitoring/grafana/dashboards: `python -m scripts.monitoring.dashboards`.

What they show stands in server_rows.py and model_rows.py, and how it is drawn in panels.py. The files are committed: Grafana reads
them by itself.
"""

import json
import sys
from pathlib import Path
from typing import Any

from scripts.atomic import write_text
from scripts.command import parser, run
from scripts.monitoring import model_rows, server_rows
from scripts.monitoring.panels import dashboard
from scripts.paths import ROOT

FOLDER = ROOT / "scripts" / "monitoring" / "grafana" / "dashboards"


def dashboards() -> dict[str, dict[str, Any]]:
    """Each file's content, by its name."""
    server = dashboard(
        "seefood-server",
        "SeeFood: server",
        "Traffic, errors, latency and saturation of the instances",
        server_rows.ROWS,
    )
    model = dashboard("seefood-model", "SeeFood: model", "Versions side by side, and what they answer", model_rows.ROWS)
    return {"server.json": server, "model.json": model}


def to_text(content: dict[str, Any]) -> str:
    """As it is committed."""
    return json.dumps(content, indent=1) + "\n"


def main() -> int:
    """Command line; see the module's docstring."""
    arguments = parser(__doc__)
    arguments.add_argument("--out", type=Path, default=FOLDER)
    out = arguments.parse_args().out
    for name, content in dashboards().items():
        write_text(out / name, to_text(content))
        print(f"written: {out / name}")
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
