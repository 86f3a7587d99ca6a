"""How fast the training loop is, and where its time goes; measured, never trained for keeps.

Commands: bench (beside a bare loop over timm's loader) and profiling (a trace of some steps). Nothing imports this room.
"""
