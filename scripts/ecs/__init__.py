"""A deployment on AWS: templates, checks before it, the commands that make, explain and remove it."""
