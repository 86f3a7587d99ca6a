"""From reviewed photos to a version that can be released, in steps that go on where they were ended: `make retrain`.

retrain.py      the command, and the list of steps
steps.py        what each step runs, reads and writes
run.py          the folder of a run: its options, and which steps are done
pipeline.py     dvc.yaml and dvc.lock: the champion, its version, and how it is put back
photos.py       which photos came in, and what is wrong with them
shadow.py       how two versions answer captured photos
report.py       the report, in Markdown
airflow_dag.py  the same steps for Airflow
Runs the commands of training/ as processes of their own; imports leaves, and what a rollout's watch makes of answers. Nothing
imports it.
"""
