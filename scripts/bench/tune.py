"""Find this machine's settings of handler/model-config.yaml by measuring: `make tune GOAL=p99_ms=50`.

They give the highest throughput at --concurrency whose latency meets the goal. One setting after the other is searched, each from
the best so far: workers and the network's threads, batch size, decoding threads. A candidate is a copy of the newest archive with
other settings, served and loaded for some seconds. The winner and the present settings are measured twice,
as the luckiest of many measurements looks better than it is. Values are replaced in the file; its comments stay.
"""

import argparse
import json
import math
import os
import re
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import yaml

from handler.parts import PROVENANCE, checksums
from scripts.archive.name import choose_archive, split_name
from scripts.archive.pack import pack
from scripts.archive.read import read_manifest, unpack
from scripts.atomic import write_json, write_text
from scripts.bench.http_message import Target, build_request
from scripts.bench.load import MAX_CONCURRENCY, closed_loop
from scripts.bench.photos import read_photos
from scripts.bench.server import BenchError, own_server
from scripts.command import parser, run
from scripts.paths import ROOT
from scripts.phrases import counted

Settings = dict[str, int]  # by the names that they have in model-config.yaml
NAMES = ("minWorkers", "maxWorkers", "batchSize", "num_threads", "decoders")
WORTH = 1.02  # how much faster other settings must be: less is noise, and not worth changing a file


@dataclass(frozen=True)
class Goal:
    """A latency to meet: so many percent of the answers come within `limit_ms`."""

    percent: int
    limit_ms: float

    @classmethod
    def parse(cls, text: str) -> "Goal":
        """Goal of "p99_ms=50". ValueError if it is anything else."""
        match = re.fullmatch(r"p(50|90|99)_ms=(\d+(?:\.\d+)?)", text)
        if not match or float(match[2]) == 0:
            raise ValueError(f"GOAL is {text!r}, expected p50_ms, p90_ms or p99_ms and a number of ms above 0, such as p99_ms=50")
        return cls(int(match[1]), float(match[2]))

    def __str__(self) -> str:
        return f"p{self.percent}_ms={self.limit_ms:g}"


@dataclass(frozen=True)
class Outcome:
    """What settings achieved: photos/s, and the goal's percentile in ms; `problem` if there were errors."""

    settings: Settings
    throughput: float = 0.0
    latency_ms: float = math.inf
    problem: str = ""

    def meets(self, goal: Goal) -> bool:
        """Whether it ran without an error and met the goal."""
        return not self.problem and self.latency_ms <= goal.limit_ms

    def rank(self, goal: Goal) -> tuple[bool, float]:
        """The greater the better: those that meet the goal by throughput, below them the others by latency."""
        return (True, self.throughput) if self.meets(goal) else (False, -math.inf if self.problem else -self.latency_ms)

    def with_again(self, again: "Outcome") -> "Outcome":
        """Both measurements of the same settings as one: the mean throughput, the higher latency."""
        throughput, latency_ms = (self.throughput + again.throughput) / 2, max(self.latency_ms, again.latency_ms)
        return Outcome(self.settings, throughput, latency_ms, self.problem or again.problem)


def read_settings(text: str) -> Settings:
    """The searched settings that model-config.yaml has. ValueError if one is not a whole number."""
    values = yaml.safe_load(text)
    values = {**values, **values["handler"]}
    settings = {name: values[name] for name in NAMES if name in values}
    wrong = {name: value for name, value in settings.items() if type(value) is not int}
    if wrong or "batchSize" not in settings:
        raise ValueError(f"model-config.yaml: expected whole numbers for {', '.join(NAMES)}, it has {wrong or settings}")
    return settings


def rewrite(text: str, settings: Settings) -> str:
    """model-config.yaml with these values; comments stay, and in their columns. ValueError if it lacks one of them."""
    lines, left = text.splitlines(keepends=True), dict(settings)
    for i, line in enumerate(lines):
        match = re.fullmatch(r"( *(\w+): *)([^\s#]+)( *)(#.*)?\n?", line)
        if match and match[2] in left:
            value = str(left.pop(match[2]))
            comment = " " * max(1, len(match[3]) + len(match[4]) - len(value)) + match[5] if match[5] else ""
            lines[i] = f"{match[1]}{value}{comment}\n"
    if left:
        raise ValueError(f"model-config.yaml has no line for {', '.join(left)}")
    return "".join(lines)


def describe(settings: Settings) -> str:
    """The settings as one line."""
    parts = [f"workers {settings['maxWorkers']}", f"threads {settings['num_threads'] or 'all'}", f"batch {settings['batchSize']}"]
    if "decoders" in settings:
        parts.append(f"decoding {settings['decoders'] or 'all'}")
    return ", ".join(parts)


def searches(cores: int, concurrency: int, present: Settings) -> list[list[Settings]]:
    """For each step of the search, the alternatives: settings that replace present ones. 0 threads: all cores."""
    pairs = {(1, 0), (2, max(1, cores // 2)), (2, 0), (cores, 1)}
    if cores >= 8:
        pairs |= {(4, cores // 4)}
    workers = [{"minWorkers": w, "maxWorkers": w, "num_threads": threads} for w, threads in sorted(pairs)]
    batches = [{"batchSize": size} for size in (1, 2, 4, 8, 16, 32) if size <= concurrency]
    decoding = [{"decoders": threads} for threads in sorted({1, 2, cores, 2 * cores})]
    return [workers, batches, decoding if "decoders" in present else []]


def candidate_archive(archive: Path, text: str, folder: Path) -> None:
    """A copy of the archive in `folder`, with `text` as its model-config.yaml."""
    with tempfile.TemporaryDirectory(dir=folder) as work:
        unpacked = Path(work) / "archive"
        unpack(archive, unpacked)
        (unpacked / read_manifest(unpacked)["model"]["configFile"]).write_text(text, encoding="utf-8")
        provenance = json.loads((unpacked / PROVENANCE).read_text(encoding="utf-8"))
        write_json(unpacked / PROVENANCE, provenance | {"parts": checksums(unpacked)})
        pack(unpacked, folder / archive.name)


class Tuner:
    """Measures settings, each once unless asked again, and prints a line for each."""

    def __init__(self, goal: Goal, archive: Path, text: str, args: argparse.Namespace) -> None:
        self.goal, self.archive, self.text, self.args = goal, archive, text, args
        self.photos = [photo for _, photo in read_photos(args.photos)]
        self.outcomes: dict[tuple[int, ...], Outcome] = {}
        self.count = 0

    def try_settings(self, settings: Settings) -> Outcome:
        """The outcome of these settings, measured once."""
        key = tuple(settings.values())
        if key not in self.outcomes:
            self.outcomes[key] = self.measure(settings)
        return self.outcomes[key]

    def measure(self, settings: Settings) -> Outcome:
        """Serve the archive with these settings, and load it."""
        with tempfile.TemporaryDirectory() as folder:
            candidate_archive(self.archive, rewrite(self.text, settings), Path(folder))
            try:
                with own_server(Path(folder) / self.archive.name) as url:
                    target = Target.of(url, f"/predictions/{split_name(self.archive)[0]}")
                    requests = [build_request(target, photo, "application/octet-stream") for photo in self.photos]
                    result = closed_loop(target, requests, self.args.concurrency, self.args.seconds, min(2.0, self.args.seconds))
                problem = f"{counted(result.errors.total(), 'error')}, {result.first_error}" if result.errors else ""
                latency_ms = result.percentile(self.goal.percent) if result.latencies_ms else math.inf
                outcome = Outcome(settings, result.throughput, latency_ms, problem)
            except BenchError as error:
                outcome = Outcome(settings, problem=str(error).splitlines()[-1].strip())
        self.count += 1
        print(f"{self.count:3}  {self.line(outcome)}", flush=True)
        return outcome

    def again(self, outcome: Outcome) -> Outcome:
        """The outcome with a second measurement in it, which is also kept for these settings from now on."""
        twice = outcome.with_again(self.measure(outcome.settings))
        self.outcomes[tuple(outcome.settings.values())] = twice
        return twice

    def line(self, outcome: Outcome) -> str:
        """An outcome as one line."""
        verdict = outcome.problem or ("goal met" if outcome.meets(self.goal) else "goal missed")
        figures = f"{outcome.throughput:7.1f} photos/s  p{self.goal.percent} {outcome.latency_ms:7.1f} ms"
        return f"{describe(outcome.settings):62} {figures}  {verdict}"

    def search(self, present: Settings) -> list[Outcome]:
        """All that was tried, best first. ValueError if the present settings do not even run."""
        best = self.try_settings(present)
        if not best.throughput:
            raise ValueError(f"the server gives no answer with the present settings: {best.problem}")
        for alternatives in searches(os.cpu_count() or 1, self.args.concurrency, present):
            around = best
            for change in alternatives:
                outcome = self.try_settings({**around.settings, **change})
                best = max(best, outcome, key=lambda o: o.rank(self.goal))
        return sorted(self.outcomes.values(), key=lambda o: o.rank(self.goal), reverse=True)

    def choose(self, present: Settings) -> Outcome | None:
        """The best settings that meet the goal in two measurements, the present ones if those are as good; None if none do."""
        ranked = self.search(present)
        print("the best, and the present settings, once more:", flush=True)
        now = self.outcomes[tuple(present.values())]
        if now.meets(self.goal):
            now = self.again(now)
        for outcome in filter(lambda outcome: outcome.meets(self.goal), ranked):
            twice = now if outcome.settings == present else self.again(outcome)
            if twice.meets(self.goal):
                return now if now.meets(self.goal) and twice.throughput < WORTH * now.throughput else twice
        return None


def tune(goal: Goal, args: argparse.Namespace) -> None:
    """Search, print, and write the file if other settings are better. BenchError if none meet the goal; ValueError as below."""
    archive, text = choose_archive(args.model_store, args.version, args.model), args.config.read_text(encoding="utf-8")
    present = read_settings(text)
    rewrite(text, present)  # else it would fail only after minutes
    print(f"{archive.name}, {counted(args.concurrency, 'connection')}, goal {goal}; the present settings first", flush=True)
    tuner = Tuner(goal, archive, text, args)
    chosen = tuner.choose(present)
    ranked = sorted(tuner.outcomes.values(), key=lambda outcome: outcome.rank(goal), reverse=True)
    print("\nall of them, best first:\n" + "\n".join(f"     {tuner.line(outcome)}" for outcome in ranked) + "\n")
    if chosen is None:
        closest = " ".join(tuner.line(ranked[0]).split())
        raise BenchError(f"no settings meet {goal}; closest: {closest}. Nothing was written")
    changes = {name: value for name, value in chosen.settings.items() if value != present[name]}
    figures = f"{chosen.throughput:.1f} photos/s, p{goal.percent} {chosen.latency_ms:.1f} ms in two measurements"
    if not changes:
        print(f"the present settings are as good as any: {figures}. Nothing was written")
        return
    write_text(args.config, rewrite(text, changes))
    changed = ", ".join(f"{name} {present[name]} -> {value}" for name, value in changes.items())
    print(f"{args.config}: {changed} ({figures}). make archive packs it into the next version")


def main() -> None:
    """Command line; see the module's docstring."""
    options = parser(__doc__)
    options.add_argument("goal", help="p50_ms=N, p90_ms=N or p99_ms=N")
    options.add_argument("--concurrency", type=int, default=16)
    options.add_argument("--seconds", type=float, default=5.0, help="of each candidate, after its warm-up")
    options.add_argument("--photos", type=Path, help="folder; default: drawn ones of 512 px")
    options.add_argument("--model", metavar="NAME", help="of the archive; default: the only one in the model store")
    options.add_argument("--version", help="of the archive; default: the newest")
    options.add_argument("--model-store", type=Path, default=ROOT / "model_store")
    options.add_argument("--config", type=Path, default=ROOT / "handler" / "model-config.yaml")
    args = options.parse_args()
    goal = Goal.parse(args.goal)
    if not 1 <= args.concurrency <= MAX_CONCURRENCY or not 0 < args.seconds < math.inf:
        raise ValueError(f"CONCURRENCY is a number from 1 to {MAX_CONCURRENCY}, SECONDS is above 0")
    tune(goal, args)


if __name__ == "__main__":
    sys.exit(run(main, "nothing was written"))
