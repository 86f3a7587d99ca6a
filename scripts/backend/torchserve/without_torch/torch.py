"""Stands in for torch in a worker where torch is not installed.

TorchServe's worker imports torch for one thing: to recognise an answer that is a torch.Tensor, and our handler returns none.
The real torch would be over 4 GB to install for that. process.py puts this folder on the worker's path only if there is no
torch; an archive in the format torch needs the real one.
"""


class Tensor:
    """No answer of our handler is an instance of it."""
