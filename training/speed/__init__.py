"""How fast the training loop is, and where its time goes; measured, never trained for keeps.

Commands: bench (beside timm's script), profiling (a trace of some steps) and gpu (all that a GPU does). Nothing imports this room.
"""
