"""Recipes: whole parameter files for published data sets, each with a name. make train RECIPE=cifar10.

README.md is the table of them: expected accuracy with its source, and what was run. choose.py finds a recipe's file, data set and
model name for the commands train, profile, bench-train and sweep, and the recipe of a set for make data. Imports nothing of ours.
"""
