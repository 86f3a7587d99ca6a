"""From photos to an exported program. Needs the `train` extra; training/README.md is the manual.

loop.py is the training loop, read top to bottom; beside it are train.py (its command: make train), run.py (what one run holds),
recipe.py, record.py, resume.py, model.py, small_resnet.py and params.py; resize.py is a command of its own. The rooms, with their
commands: data (download, ingest, prepare, remote), evaluation (evaluate, report), export (export, compare), tracking (track, ui,
promote, follow), sweep (sweep), speed (bench, profiling), and recipes: parameter files by name. Imports handler/preprocess.py,
handler/program.py and the leaves of scripts/. Nothing outside training/ may import it: a server is installed without it.
"""

from scripts.command import end_quietly_until_run

end_quietly_until_run()  # the rest, torch above all, takes seconds to import
