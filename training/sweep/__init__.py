"""Hyper-parameter search with Optuna: trials are runs of training/train.py, each in a process and a folder of its own.

Command: sweep; sweep.yaml is what it searches by default. Nothing else in training imports this room.
"""
