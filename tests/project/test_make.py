"""The Makefile: values reach a command as they were typed, and from the command line alone; and what `make` shows."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest

from tests.conftest import ROOT

# what a shell, or make itself, would take apart, expand or run
NASTY = r"""a b'c"d$(touch x)`touch y`; touch z & $(shell touch w) ${HOME} #$$ \ , %=*"""
STUB = """#!{python} -IS
import json, os, sys
with open({log!r}, "a") as log:
    log.write(json.dumps([os.path.basename(sys.argv[0]), *sys.argv[1:]]) + "\\n")
    log.write(json.dumps(dict(os.environ)) + "\\n")
"""
PINS = ("pyproject.toml", "uv.lock", "scripts/install.py")
PACKING = ("scripts/archive/build.py", "scripts/archive/pack.py")
INSTALLED = tuple(f".venv/installed-{extra}" for extra in ("serve", "parquet", "tracing", "train", "cloud", "dev"))
STARTER = "model_store/seefood-0.5.0.mar"


class Project:
    """A folder with the Makefile and stand-ins for all that it calls; its own name is not a simple one, either."""

    def __init__(self, folder):
        self.folder, self.log = folder / "it's a $(folder)", folder / "log"
        (self.folder / ".venv/bin").mkdir(parents=True)
        shutil.copy(ROOT / "Makefile", self.folder)
        shutil.copy(ROOT / "dvc.yaml", self.folder)
        for name in ("python", "dvc", "uv", "docker", "docker-compose", "my $(touch x) python"):
            stub = self.folder / ".venv/bin" / name
            stub.write_text(STUB.format(python=os.path.realpath(sys.executable), log=str(self.log)))
            stub.chmod(0o755)
        for number, name in enumerate([*PINS, *PACKING, *INSTALLED, STARTER]):
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / name).touch()
            os.utime(self.folder / name, (number, number))  # nothing is older than what it is made of
        (self.folder / "runs").mkdir()
        self.before = set(folder.rglob("*"))

    def left(self):
        """The files that a value may have made, run as a command."""
        return set(self.log.parent.rglob("*")) - self.before - {self.log}

    def make(self, *arguments, **environment):
        """What `make` printed, its exit status, and the commands that it ran."""
        self.log.write_text("")
        outside = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
        path = f"{self.folder / '.venv/bin'}:{outside['PATH']}"
        command = ["make", "--no-print-directory", *arguments]
        done = subprocess.run(
            command, cwd=self.folder, env=outside | environment | {"PATH": path}, capture_output=True, text=True, check=False
        )
        lines = [json.loads(line) for line in self.log.read_text().splitlines()]
        self.environments = lines[1::2]
        return done, lines[::2]

    def run(self, *arguments, **environment):
        """The commands that `make` ran without an error."""
        done, commands = self.make(*arguments, **environment)
        assert done.returncode == 0, done.stdout + done.stderr
        return commands


@pytest.fixture
def project(tmp_path):
    return Project(tmp_path)


# the values that each target takes; a target twice where one value leaves out others
TAKEN = [
    ("data", "SET DATA PARAMS MEAN STD"),
    ("check-data", "DATA PARAMS WEIGHTS OUT"),
    ("collect", "SOURCE OUT LIMIT MODEL"),
    ("ingest", "FROM DATA PARAMS"),
    ("review", "BATCH OUT EXPORT IMPORT PORT"),
    ("remote", "BUCKET ENDPOINT"),
    ("train", "MODEL DATA RECIPE PARAMS WEIGHTS GPUS RUN"),
    ("train", "RESUME RECIPE"),
    ("profile", "DATA RECIPE PARAMS WEIGHTS"),
    ("bench-train", "DATA RECIPE PARAMS TIMM_TRAIN"),
    ("bench-gpu", "DATA RECIPE PARAMS TIMM_TRAIN SECONDS OUT"),
    ("sweep", "MODEL DATA RECIPE PARAMS SPACE NAME TRIALS"),
    ("evaluate", "RUN DATA UNKNOWN"),
    ("resize", "RUN SIZE CROP_PCT DATA OUT"),
    ("report", "RUN"),
    ("promote", "MODEL RUN DATA ALPHA"),
    ("track", "RUN"),
    ("mlflow", "PORT"),
    ("retrain", "PHOTOS VERSION ALPHA UNTIL"),
    ("compare", "RUN DATA"),
    ("export", "VERSION RUN FORMAT DATA"),
    ("export", "EXPORTED"),
    ("archive", "VERSION RUN FORMAT DATA MODEL"),
    ("archive", "EXPORTED"),
    ("inspect", "MAR"),
    ("serve", "PORT HOST MODEL VERSION RELEASE INSTANCE FORMAT CERT KEY"),
    ("key", "NAME RATE"),
    ("stop", "PORT"),
    ("rollout", "VERSION CANARY SHADOW BAKE ANSWERS RELEASE MODEL URL MANAGEMENT_URL MAR"),
    ("rollback", "RELEASE MODEL"),
    ("withdraw", "MODEL RELEASE"),
    ("status", "RELEASE"),
    ("releases", "RELEASE"),
    ("predict", "PHOTOS OUT MODEL VERSION URL"),
    ("smoke", "URL RELEASE"),
    ("bench", "URL ROUTE PHOTOS MEGAPIXELS FIELD SECONDS MODEL VERSION OUT"),
    ("bench-decode", "PHOTOS SECONDS MODEL"),
    ("tune", "GOAL CONCURRENCY SECONDS PHOTOS MODEL VERSION"),
    ("image", "TAG BASE_IMAGE TORCH TORCH_VERSION TORCH_INDEX PLATFORM"),
    ("tools-image", "TAG BASE_IMAGE TORCH TORCH_VERSION TORCH_INDEX PLATFORM"),
    ("run-image", "RELEASE TAG"),
    ("sbom", "BASE_IMAGE TORCH TORCH_VERSION TORCH_INDEX"),
    ("preflight", "STACK"),
    ("deploy", "STACK IMAGE ONLY REPLACE LIMIT_S"),
    ("doctor", "STACK"),
    ("destroy", "STACK"),
]
# of a command's words each is one argument
LISTS = [
    ("retrain", "FROM"),
    ("bench", "CONCURRENCY"),
    ("bench", "RATE"),
    ("review", "MAR"),
    ("image", "DOCKER_FLAGS"),
    ("compose", "COMPOSE"),
    ("image", "DOCKER"),
]
FLAGS = [
    ("serve", "TLS", "--tls"),
    ("predict", "HTML", "--html"),
    ("predict", "TTA", "--tta"),
    ("evaluate", "TTA", "--tta"),
    ("bench-train", "CACHE", "--cache"),
    ("compose", "PROMETHEUS_IMAGE", "--profile"),
    ("compose", "GRAFANA_IMAGE", "--profile"),
    ("collect", "REVIEWED", "--reviewed"),
    ("ingest", "NEW_CLASSES", "--new-classes"),
    ("ingest", "REVIEWED", "--reviewed"),
    ("review", "NEW_CLASSES", "--new-classes"),
    ("retrain", "NEW_CLASSES", "--new-classes"),
    ("remote", "MOVE", "--move"),
    ("rollout", "KEEP", "--keep"),
    ("rollout", "UNWATCHED", "--unwatched"),
    ("rollout", "UNVERIFIED", "--unverified"),
    ("deploy", "YES", "--yes"),
    ("destroy", "YES", "--yes"),
]
NEEDED = {
    "collect": ["SOURCE=photos"],
    "ingest": ["FROM=photos"],
    "review": ["BATCH=batch"],
    "remote": ["BUCKET=s3://bucket"],
    "export": ["VERSION=1.0.0"],
    "archive": ["VERSION=1.0.0"],
    "inspect": ["MAR=a.mar"],
    "rollout": ["VERSION=1.0.0"],
    "predict": ["PHOTOS=photos"],
    "resize": ["SIZE=192"],
    "smoke": ["URL=https://host"],
    "tune": ["GOAL=p99_ms=50"],
}


def needed(target, but=()):
    return [value for value in NEEDED.get(target, []) if value.split("=")[0] not in but]


def listed():
    """The names that the Makefile takes from the command line."""
    return re.search(r"^VALUES := (.*)", (ROOT / "Makefile").read_text().replace("\\\n", ""), re.MULTILINE)[1].split()


def test_every_value_that_is_read_or_shown_is_listed_and_tested():
    text = (ROOT / "Makefile").read_text().replace("\\\n", "")
    own = {"VALUES", "BIN", "STARTER", "STARTER_VERSION", "PINS", "ASKED", "MAKE", "MAKE_VERSION", "MAKECMDGOALS", "MAKEFILE_LIST"}
    read = set(re.findall(r"\$\(([A-Z][A-Z_]+)\b", text)) | set(re.findall(r"\$\(call \w+,(?:[^,()]*,)?([A-Z][A-Z_]+)\b", text))
    shown = set(re.findall(r"[ \[]([A-Z][A-Z_]+)=", " ".join(re.findall(r"## (.*)", text))))
    tested = {name for _, names in TAKEN for name in names.split()} | {name for _, name, *_ in [*LISTS, *FLAGS]}
    assert len(read) > 50
    assert (read - own) | shown <= set(listed())
    assert set(listed()) == tested | {"PYTHON"}  # which has a test of its own


@pytest.mark.parametrize(("target", "names"), TAKEN, ids=str)
def test_a_value_is_one_argument_whatever_is_in_it(project, target, names):
    values = {name: f"{name} {NASTY}" for name in names.split()}
    commands = project.run(target, *(f"{name}={value}" for name, value in values.items()), *needed(target, values))
    for value in values.values():
        assert any(value in argument for command in commands for argument in command), (value, commands)
    assert project.left() == set()


@pytest.mark.parametrize(("target", "names"), [one for one in TAKEN if one[0] not in ("run-image", "sbom")], ids=str)
def test_a_value_that_begins_with_a_dash_is_no_option(project, target, names):
    """As argparse reads it: after =, after --, or within a word."""
    values = [f"{name}=--x-{name}" for name in names.split() if name not in ("PORT", "GPUS")]
    for command in project.run(target, *values, *needed(target, names.split())):
        options = command[1 : command.index("--")] if "--" in command else command[1:]
        assert [word for word in options if word.startswith("--x-")] == [], command


@pytest.mark.parametrize(("target", "name"), LISTS, ids=str)
def test_a_list_is_an_argument_for_each_word(project, target, name):
    value = r"""docker a'b c"d $(touch) `touch` ;touch #x"""
    commands = project.run(target, f"{name}={value}", *needed(target))
    arguments = value.split()
    assert any(command[at : at + len(arguments)] == arguments for command in commands for at in range(len(command))), commands
    assert project.left() == set()


@pytest.mark.parametrize(("target", "name", "flag"), FLAGS, ids=str)
def test_a_flag_is_given_when_its_value_is(project, target, name, flag):
    assert flag not in project.run(target, *needed(target))[-1]
    assert flag in project.run(target, f"{name}={NASTY}", *needed(target))[-1]
    assert project.left() == set()


def test_a_port_is_one_argument_whatever_it_holds(project):
    for value in ("8080)); touch x; echo $((1", "a[$(touch x)]", NASTY):
        (command,) = project.run("run-image", f"PORT={value}")
        assert f"127.0.0.1:{value}:8080" in command
        assert project.left() == set()
    assert "--publish 127.0.0.1:9080:8080" in " ".join(project.run("run-image", "PORT=9080")[0])


def test_a_python_in_a_folder_with_spaces_installs(project):
    (project.folder / "pyproject.toml").touch()
    ((name, *arguments),) = project.run(".venv/installed-serve", f"PYTHON={project.folder}/.venv/bin/my $(touch x) python")
    assert (name, arguments) == ("my $(touch x) python", ["scripts/install.py", "serve"])
    assert project.left() == set()


def test_a_value_with_a_line_break_is_refused(project):
    for value in ("photos\ntouch x", "'\ntouch x\n'"):
        done, commands = project.make("train", f"DATA={value}")
        assert (done.returncode != 0, commands, project.left()) == (True, [], set())
        assert "DATA holds a line break" in done.stderr


@pytest.mark.slow
def test_exported_variables_change_nothing(project):
    exported = dict.fromkeys(listed(), f"exported {NASTY}")
    targets = sorted({target for target, _ in TAKEN})
    free = [target for target in targets if target not in NEEDED]
    needing = [target for target in targets if target in NEEDED and target != "rollout"]
    for goals in (free, ["rollout"], needing):
        arguments = [*goals, *(value for goal in goals for value in needed(goal))]
        plain = project.run(*arguments)
        assert len(plain) >= len(goals)
        for flag in ("--no-print-directory", "--environment-overrides"):
            assert project.run(flag, *arguments, **exported) == plain
            # nor do they reach what the commands themselves call
            assert not any(exported["PORT"] in inside.values() for inside in project.environments)
    assert project.left() == set()


def test_variables_of_other_programs_and_ours_pass_through(project):
    ours = {
        "SEEFOOD_RELEASE": "s3://bucket/release.json",
        "AWS_REGION": "eu-west-1",
        "MLFLOW_TRACKING_URI": "none",
        "UV_OFFLINE": "1",
    }
    project.run("status", **ours)
    assert ours.items() <= project.environments[0].items()


def test_a_model_is_named_to_what_makes_one_and_to_others_only_if_it_was_given(project):
    makers, readers = (
        ["train", "sweep", "promote"],
        ["archive", "serve", "rollout", "predict", "bench", "tune"],
    )
    values = [value for target in readers for value in needed(target)]
    assert [named(command) for command in project.run(*makers, MODEL="exported")] == ["seefood"] * 3
    assert [named(command) for command in project.run(*makers, "MODEL=flowers")] == ["flowers"] * 3
    for model, arguments in ((None, []), ("flowers", ["MODEL=flowers"])):
        commands = [command for command in project.run(*readers, *values, *arguments, MODEL="exported") if "scripts." in command[2]]
        assert [named(command) for command in commands] == [model] * len(readers)


def named(command):
    """The model that a command is given."""
    return next((word.partition("=")[2] for word in command if word.startswith("--model=")), None)


def test_the_champion_is_fetched_each_time_and_exported_when_it_has_changed(project):
    fetch = ["python", "-m", "training.tracking.promote", "--model=seefood", "--fetch", "champion", "--out=runs/champion"]
    export = ["training.export.export", "--checkpoint=runs/champion/checkpoint.pt", "--out=build/1.0.0"]
    pack = ["scripts.archive.build", "--version=1.0.0", "--", "build/1.0.0"]
    archive = ("archive", "VERSION=1.0.0", "RUN=champion")
    assert project.run(*archive) == [fetch, ["python", "-m", *export], ["python", "-m", *pack]]
    checkpoint, program = project.folder / "runs/champion/checkpoint.pt", project.folder / "build/1.0.0/program.json"
    for path in (checkpoint, program):
        path.parent.mkdir(parents=True)
        path.touch()
    os.utime(checkpoint, (1, 1))
    assert project.run(*archive) == [fetch, ["python", "-m", *pack]]
    os.utime(program, (0, 0))
    assert project.run(*archive) == [fetch, ["python", "-m", *export], ["python", "-m", *pack]]


def test_exports_of_two_runs_under_one_version_are_told_apart(project):
    runs, program = [project.folder / "runs" / name for name in ("a", "b")], project.folder / "build/1.0.0/program.json"
    program.parent.mkdir(parents=True)
    for run in runs:
        run.mkdir()
        (run / "checkpoint.pt").touch()

    def exports(run):
        commands = project.run("export", "VERSION=1.0.0", f"RUN=runs/{run}")
        return [word for command in commands for word in command if word.startswith("--checkpoint=")]

    assert exports("a") == ["--checkpoint=runs/a/checkpoint.pt"]
    program.touch()
    assert exports("a") == []
    assert exports("b") == ["--checkpoint=runs/b/checkpoint.pt"]  # although the program is newer than its checkpoint
    assert exports("b") == []
    (project.folder / "runs/latest").symlink_to("b")
    assert exports("latest") == []  # another name of the same run


def test_train_is_given_what_to_train_and_the_values_that_the_command_line_gave(project):
    ((*command,),) = project.run("train")
    assert command[:3] == ["python", "-m", "training.train"]
    assert command[3:] == ["--processes=1", "--model=seefood", "--params=params.yaml", "--make"]
    ((*command,),) = project.run("train", "DATA=my photos", "GPUS=4", "RUN=../mine")
    assert {"--processes=4", "--data=my photos", "--out=../mine"} <= set(command)
    assert command[command.index("--make") + 1 :] == ["DATA=my photos", "GPUS=4", "RUN=../mine"]
    ((*command,),) = project.run("train", "RESUME=runs/a", "PARAMS=other.yaml")
    assert command[3:] == [
        *("--processes=1", "--resume", "--out=runs/a", "--params=other.yaml"),
        *("--make", "PARAMS=other.yaml", "RESUME=runs/a"),
    ]


def test_a_recipe_stands_for_parameters_name_and_data_set(project):
    ((*command,),) = project.run("train", "RECIPE=cifar10")
    assert command[3:] == ["--processes=1", "--recipe=cifar10", "--make", "RECIPE=cifar10"]
    ((*command,),) = project.run("sweep", "RECIPE=cifar10", "MODEL=planes", "DATA=my photos")
    assert command[3:6] == ["--model=planes", "--data=my photos", "--recipe=cifar10"]
    ((*command,),) = project.run("train", "RECIPE=cifar10", "PARAMS=params.yaml")  # which the command refuses
    assert {"--recipe=cifar10", "--params=params.yaml"} <= set(command)
    ((*command,),) = project.run("train", "RESUME=runs/a", "RECIPE=cifar10")
    assert command[3:6] == ["--processes=1", "--resume", "--out=runs/a"]
    assert command[6:] == ["--recipe=cifar10", "--make", "RECIPE=cifar10", "RESUME=runs/a"]


@pytest.mark.parametrize(
    ("target", "question"),
    [
        ("collect", "which photos? make collect SOURCE=folder"),
        ("ingest", "which photos? make ingest FROM=folder"),
        ("review", "which batch? make review BATCH=folder"),
        ("remote", "which bucket? make remote BUCKET=s3://bucket/prefix"),
        ("export", "which version? make export VERSION=1.1.0"),
        ("archive", "which version? make archive VERSION=1.1.0"),
        ("rollout", "which version? make rollout VERSION=1.1.0"),
        ("inspect", "which archive? make inspect MAR=model_store/seefood-1.0.0.mar"),
        ("predict", "which photos? make predict PHOTOS=folder"),
        ("smoke", "which server? make smoke URL=https://..."),
        ("tune", "which goal? make tune GOAL=p99_ms=50"),
    ],
)
def test_a_missing_value_is_asked_for_before_anything_is_installed(project, target, question):
    for installed in (project.folder / ".venv").glob("installed-*"):
        installed.unlink()
    done, commands = project.make(target)
    assert (done.returncode, commands) == (2, [])
    assert done.stderr.startswith(f"error: {question}\n")


def test_targets_are_shown_under_headings_each_once(project):
    shown = project.make()[0].stdout
    headings = re.findall(r"^(\w.*)$", shown, re.MULTILINE)
    assert headings == ["Data", "Train", "Package", "Serve and roll out", "Deploy", "Develop"]
    targets = re.findall(r"^  make ([a-z-]+)", shown, re.MULTILINE)
    assert len(targets) == len(set(targets)) > 40
    for heading, target in [
        ("Data", "ingest"),
        ("Train", "sweep"),
        ("Package", "archive"),
        ("Deploy", "doctor"),
        ("Develop", "lint"),
    ]:
        assert re.search(rf"^{heading}\n(  make .*\n)*  make {target} ", shown, re.MULTILINE)


@pytest.mark.parametrize("variable", ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", None])
def test_serve_installs_tracing_for_either_variable_that_asks_for_it(project, variable):
    (project.folder / ".venv/installed-tracing").unlink()
    environment = {variable: "http://127.0.0.1:4318"} if variable else {}
    done, _ = project.make("-n", "serve", **environment)
    assert ("scripts/install.py serve tracing" in done.stdout) == bool(variable), done.stdout + done.stderr
