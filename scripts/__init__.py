"""Everything around the model: archive, predict, backend, release, serving, rollout, bench, ecs.

Each room's `__init__.py` is its page.

The files here are the leaves, which any room may import: settings, steps (the log), command, errors, atomic, paths,
phrases, machine, page_style, model_name; and install.py, which runs before anything is installed. Nothing here imports training/.
"""

from scripts.command import end_quietly_until_run

end_quietly_until_run()  # the rest, torch above all, takes seconds to import
