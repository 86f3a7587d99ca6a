"""How a deployment's image is built, as lines for a workflow's $GITHUB_OUTPUT: `python -m scripts.ecs.deploy.build NAME`.

torch=...      TORCH of `make image`: cpu, or CUDA for a deployment with Gpu
platform=...   PLATFORM of `make image`: that of its instances, not of the machine that builds
"""

import sys

from scripts.command import parser, run
from scripts.ecs.deploy.image import build_of
from scripts.ecs.stacks import Deployment


def main() -> None:
    """Command line; see the module's docstring. Makes no call of AWS."""
    command = parser(__doc__)
    command.add_argument("name", help="the name of a file in scripts/ecs/deployments, without .yaml")
    build = build_of(Deployment.load(command.parse_args().name))
    print(f"torch={build.torch}\nplatform={build.platform}")


if __name__ == "__main__":
    sys.exit(run(main))
