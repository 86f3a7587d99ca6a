"""The steps of make retrain as a DAG, for those who run Airflow: copy or link this file into Airflow's folder of DAGs.

Once a day: a collection, where SEEFOOD_COLLECT names a source, then a task for each step, which retrains up to it in the checkout
that SEEFOOD_CHECKOUT names. A task that is tried again goes on where it was ended; where no photo has come in, the step check skips
those after it. A photo that could not be collected fails no day. Runs in Airflow's own environment, which has nothing of this
project: the names of the steps are written out here, and tests/retrain/test_airflow.py compares them.
"""

import os
import shlex
from datetime import UTC, datetime, timedelta
from itertools import pairwise

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG

STEPS = ("pull", "champion", "ingest", "check", "train", "evaluate", "promote", "archive", "shadow", "push", "report")
CHECKOUT = os.environ.get("SEEFOOD_CHECKOUT", "/opt/seefood")
SOURCE = os.environ.get("SEEFOOD_COLLECT", "")
SKIPPED = 99  # the status by which a BashOperator's task is skipped, and those after it
# not make collect and make retrain: make turns each status but 0 into 2
RETRAIN = f"make .venv/installed-train && exec .venv/bin/python -m scripts.retrain.retrain --nothing-new-status {SKIPPED} --until "
# 3: some photos could not be taken; the next day looks at them again
COLLECT = "make .venv/installed-serve && {{ .venv/bin/python -m scripts.collection.collect -- {} || [ $? = 3 ]; }}"

with DAG(
    dag_id="seefood_retrain",
    description="Reviewed photos to a new version, released only by a merge",
    schedule="@daily",
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    default_args={"retries": 2, "retry_delay": timedelta(minutes=5)},
    tags=["seefood"],
) as dag:
    tasks = [BashOperator(task_id=step, cwd=CHECKOUT, bash_command=RETRAIN + step) for step in STEPS]
    if SOURCE:
        tasks.insert(0, BashOperator(task_id="collect", cwd=CHECKOUT, bash_command=COLLECT.format(shlex.quote(SOURCE))))
    for task, after in pairwise(tasks):
        task.set_downstream(after)
