"""A new API key: `make key NAME=kitchen [RATE=5]` prints it, this once, and the line for the file of keys."""

import argparse
import sys

from scripts.command import run
from scripts.door.access.keys import new_key


def main() -> None:
    """Print the key and its line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", help="whose key it is: letters, digits, dots, dashes, underscores, @")
    parser.add_argument("--rate", default="", help="requests a second that it allows")
    arguments = parser.parse_args()
    key, line = new_key(arguments.name, arguments.rate)
    print(f"the key, which is shown this once: {key}")
    print(f"its line for the file of keys:     {line}")


if __name__ == "__main__":
    sys.exit(run(main))
