"""From a checkpoint to a folder that scripts/archive packs: the program in an export format, its description, golden pictures.

Commands: export (one format, through the accuracy gate) and compare (all formats side by side). Nothing else in training
imports this room. An export format is added in formats.py, its loader in handler/program.py.
"""
