"""Errors whose message is for the person at the terminal: what is wrong, what was expected, what to do.

scripts/command.py prints them as one line, `error: ...`; any other exception is a fault of ours and ends in a traceback.
ValueError (a bad value from outside) and OSError (the machine) count as such, too. The tree of our own, kept true by
tests/project/test_command.py:

ERROR_TREE
"""


class SeeFoodError(Exception):
    """Something that a person can act on."""
