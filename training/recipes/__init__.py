"""Recipes: whole parameter files for published data sets, each with a name. make train RECIPE=cifar10.

README.md is the table of them: expected accuracy with its source, and what was run. choose.py finds a recipe's file, data set and
model name for the commands train, profile, bench-train and sweep, and tells make data which recipe a set has. Imports nothing of ours.
"""
