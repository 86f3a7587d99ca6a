"""A new API key: `make key NAME=kitchen [RATE=5]` prints it, this once, and the line for the file of keys."""

import sys

from scripts.command import parser, run
from scripts.door.access.keys import new_key


def main() -> int:
    """Command line; see the module's docstring."""
    arguments = parser(__doc__)
    arguments.add_argument("name", help="whose key it is: letters, digits, dots, dashes, underscores, @")
    arguments.add_argument("--rate", default="", help="requests a second that it allows")
    args = arguments.parse_args()
    key, line = new_key(args.name, args.rate)
    print(f"the key, which is shown this once: {key}")
    print(f"its line for the file of keys:     {line}")
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
