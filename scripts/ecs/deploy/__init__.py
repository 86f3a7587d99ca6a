"""Changing a deployment on AWS. Commands, run as `python -m scripts.ecs.deploy.NAME DEPLOYMENT`; nobody imports from here.

deploy    creates or updates the stacks in order (changes.py), pushes the image (image.py), and watches the service until the
          deployment has succeeded or failed (watch.py, verdict.py)
destroy   deletes the stacks, and lists what stays
build     prints how the image is built, for workflows
unapplied prints what the other stacks lack where only the service's was deployed
running   prints what the service runs, for workflows
"""
