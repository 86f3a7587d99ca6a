"""RECIPE=cifar10 (--recipe): a recipe's parameter file, its data set where `make data` puts it, and its name as the model's."""

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).parent
DEFAULT = Path("params.yaml")


class DataSet(NamedTuple):
    """A published data set: its name for `make data SET=...`, and the folder where that puts it."""

    name: str
    folder: Path


CIFAR10 = DataSet("cifar10", Path("data/cifar10"))
# a recipe that is not here has no published data set: DATA names the photos
DATA_SETS = {
    "cifar10": CIFAR10,
    "cifar10-64": CIFAR10,
    "flowers102": DataSet("flowers102", Path("data/flowers102")),
    "food101": DataSet("food101", Path("data/food-101")),
}


def recipe_names() -> list[str]:
    """The names of all recipes, sorted."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def recipes_of(folder: Path) -> list[str]:
    """The names of the recipes for the data set in `folder`; none, unless it is where they look for it."""
    return [name for name, data_set in DATA_SETS.items() if data_set.folder == folder]


def add_options(line: ArgumentParser, default: str = str(DEFAULT)) -> None:
    """Add --params, which is None unless given, and --recipe; `default` is for the help."""
    line.add_argument("--params", type=Path, help=f"parameter file; default: {default}")
    line.add_argument("--recipe", help=f"parameters, data set and model name by one name: {', '.join(recipe_names())}")


def fill_in(args: Namespace) -> None:
    """Where a command line names a recipe: set its `params`, and its `data` and `model` unless they are given.

    A resumed run keeps its own data and name. ValueError if there is no such recipe, if `params` is given, too, or if
    the data set is not there.
    """
    if args.recipe is None:
        return
    if args.params is not None:
        raise ValueError(
            f"RECIPE={args.recipe} and PARAMS={args.params} both name parameters: give one of them (--recipe or --params)"
        )
    if args.recipe not in recipe_names():
        raise ValueError(f"RECIPE is {args.recipe!r}: no such recipe in training/recipes; there are {', '.join(recipe_names())}")
    args.params = FOLDER / f"{args.recipe}.yaml"
    if getattr(args, "resume", False):
        return
    if getattr(args, "model", "") is None:
        args.model = args.recipe
    if args.data is None:
        args.data = published_data(args.recipe)


def published_data(recipe: str) -> Path:
    """The folder of a recipe's data set. ValueError, with what to do, if it has none or that is not there."""
    if recipe not in DATA_SETS:
        raise ValueError(f"the recipe {recipe} has no published data set: give your photos, DATA=folder (--data)")
    name, folder = DATA_SETS[recipe]
    if not folder.exists():
        raise ValueError(
            f"the data set of the recipe {recipe} is not in {folder}: make data SET={name} puts it there, "
            "or give your photos, DATA=folder (--data)"
        )
    return folder
