"""Make a registered model the champion if it is better than the one that is, on photos that neither was trained on.

    python -m training.tracking.promote --run runs/X     # the version that this run registered: make promote RUN=runs/X
    python -m training.tracking.promote                  # the version with the alias challenger
    python -m training.tracking.promote --fetch champion --out runs/champion    # its checkpoint.pt: make archive RUN=champion

Both answer the photos held out in the challenger's data set, through the preprocessing that serves, and are compared photo
by photo with the exact McNemar test (doi:10.1007/BF02295996; for classifiers doi:10.1162/089976698300017197). The alias
moves if p is below --alpha; else the exit status is 1. Either way the version's tags tell of the comparison.
The challenger's best epoch was chosen on these photos; give --data with others where that matters.
"""

import argparse
import math
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import NormalDist
from typing import TYPE_CHECKING

import torch
from scipy.stats import binomtest
from torch import Tensor

from training.data.loader import eval_loader
from training.data.sets import Data, read_data
from training.evaluation.evaluate import held_out_photos
from training.evaluation.metrics import predict
from training.model import Checkpoint
from training.params import Params
from training.tracking.journal import MODEL, public, read_state, sha256_of, tracking_uri, write_state
from training.tracking.sender import CHALLENGER, open_client, reason_of

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

CHAMPION = "champion"
ALPHA = 0.05
TALKERS = ("mlflow", "sqlalchemy", "botocore", "requests", "urllib3")
POWER = 0.8  # with so much probability the number of photos named would show a difference of the size seen


@dataclass(frozen=True)
class Paired:
    """Photos that two models answered: all, those only the challenger has right, those only the champion has."""

    photos: int
    gained: int
    lost: int

    @property
    def points(self) -> float:
        """Top-1 of the challenger less that of the champion, in percentage points."""
        return 100 * (self.gained - self.lost) / self.photos

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of `points`: Wald's with half a photo added to each of the four counts (doi:10.1002/sim.1781)."""
        n, z = self.photos + 2, NormalDist().inv_cdf(0.975)
        centre = (self.gained - self.lost) / n
        reach = z * math.sqrt((self.gained + self.lost + 1) / n - centre**2) / math.sqrt(n)
        return 100 * max(-1.0, centre - reach), 100 * min(1.0, centre + reach)

    @property
    def p_value(self) -> float:
        """Two-sided exact McNemar test: how often a fair coin parts those photos at least so unevenly."""
        return float(binomtest(self.gained, self.gained + self.lost).pvalue) if self.gained + self.lost else 1.0

    def photos_needed(self, alpha: float) -> int:
        """Photos on which a difference of this size shows with probability POWER (doi:10.2307/2531961); it must not be 0."""
        apart, difference = (self.gained + self.lost) / self.photos, (self.gained - self.lost) / self.photos
        z_alpha, z_power = NormalDist().inv_cdf(1 - alpha / 2), NormalDist().inv_cdf(POWER)
        return math.ceil((z_alpha * math.sqrt(apart) + z_power * math.sqrt(max(0.0, apart - difference**2))) ** 2 / difference**2)


def why_not(paired: Paired, alpha: float) -> str:
    """Why the challenger does not become champion; "" if it does."""
    if paired.gained <= paired.lost:
        return "it is not better than the champion"
    if paired.p_value < alpha:
        return ""
    apart, least = paired.gained + paired.lost, math.floor(1 - math.log2(alpha)) + 1  # of `least`, all must be gained
    if apart < least:
        reason = f"too few photos: {apart} tell the two apart, and p < {alpha:g} takes {least} at least"
    else:
        reason = f"that may be chance: p = {paired.p_value:.3g}, not below {alpha:g}"
    return f"{reason}; some {paired.photos_needed(alpha)} photos would show such a difference four times in five"


def answered_right(checkpoint: Checkpoint, data: Data) -> Tensor:
    """Whether the model names each held-out photo's class, bool (N,)."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    classifier, spec = checkpoint.classifier()
    logits, targets = predict(classifier.to(device), eval_loader(data.held_out, Params(**checkpoint.params), spec), device)
    return logits.argmax(1) == targets


def unseen_photos(challenger: Checkpoint, champion: Checkpoint | None, root: Path | None) -> Data:
    """The challenger's data set with the held-out photos that neither was trained on. ValueError if that is not possible."""
    if champion is not None and challenger.labels != champion.labels:
        differing = sorted(set(challenger.labels) ^ set(champion.labels))[:10] or "their order"
        raise ValueError(
            f"challenger and champion have different label maps ({differing}), so that no photo compares them; to begin anew "
            f"with the challenger's, take the alias {CHAMPION} from the other version (make mlflow) and promote again"
        )
    params = Params(**challenger.params)
    root = root or challenger.data_root
    data = held_out_photos(challenger, read_data(root, params.val_fraction, params.seed, Path("build/photo-hashes")))
    seen = set(champion.trained_on) if champion is not None else set()
    left = tuple(photo for photo in data.held_out if photo.sha256 not in seen)
    if not left:
        raise ValueError(f"the champion was trained on every held-out photo of {data.source}; give others: DATA=folder")
    return replace(data, held_out=left)


@contextmanager
def said_plainly(uri: str) -> Iterator[None]:
    """Within `with`, what MLflow and what it talks through raise becomes a ValueError of one line."""
    try:
        yield
    except Exception as error:
        if not isinstance(error, OSError) and type(error).__module__.split(".")[0] not in TALKERS:
            raise
        raise ValueError(f"{public(uri)} failed: {reason_of(error, uri)}") from error


class Registry:
    """The versions of the model in MLflow's registry. Methods raise whatever MLflow, its database or the network raise."""

    def __init__(self, uri: str) -> None:
        self.uri, self.client = uri, open_client(uri)

    def holder(self, alias: str) -> "ModelVersion | None":
        """The version with that alias, None if there is none."""
        from mlflow.exceptions import MlflowException

        try:
            number = self.client.get_registered_model(MODEL).aliases.get(alias)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            number = None
        return None if number is None else self.client.get_model_version(MODEL, str(number))

    def named(self, alias: str) -> "ModelVersion":
        """The version with that alias. ValueError if there is none."""
        version = self.holder(alias)
        if version is None:
            how = f"make train registers a {CHALLENGER}, make promote a {CHAMPION}"
            raise ValueError(f"{public(self.uri)} has no {MODEL} with the alias {alias!r}: {how}")
        return version

    def challenger(self, run: Path | None) -> "ModelVersion":
        """The newest version that a run registered; without a run, the one with the alias. ValueError if there is none."""
        if run is None:
            return self.named(CHALLENGER)
        run_id, _ = read_state(run.resolve(), self.uri)
        versions = self.client.search_model_versions(f"name = '{MODEL}' and run_id = '{run_id}'") if run_id else []
        if not versions:
            raise ValueError(f"{run} registered no model at {public(self.uri)}; is it finished, and sent? make track RUN={run}")
        return max(versions, key=lambda version: int(version.version))

    def fetch(self, version: "ModelVersion", out: Path) -> Path:
        """`out`/checkpoint.pt, downloaded unless it is there. ValueError if it is not what was registered."""
        from mlflow.artifacts import download_artifacts

        path, sha256 = out / "checkpoint.pt", version.tags.get("sha256")
        if path.is_file() and sha256_of(path) == sha256:
            return path
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out, prefix=".fetch-") as folder:
            part = Path(download_artifacts(version.source, dst_path=folder, tracking_uri=self.uri))
            if sha256_of(part) != sha256:
                raise ValueError(
                    f"{version.source} has sha256 {sha256_of(part)}, {MODEL} {version.version} was registered with {sha256}"
                )
            part.replace(path)
        return path

    def load(self, version: "ModelVersion") -> Checkpoint:
        """The checkpoint of a version."""
        with tempfile.TemporaryDirectory() as folder:
            return Checkpoint.load(self.fetch(version, Path(folder)))

    def note(self, version: "ModelVersion", values: dict[str, str]) -> None:
        """Set the version's tags."""
        for name, value in values.items():
            self.client.set_model_version_tag(MODEL, str(version.version), f"promotion.{name}", value)


def against_champion(right: Tensor, champion_right: Tensor, alpha: float) -> tuple[str, dict[str, str]]:
    """Why the challenger is not promoted ("" if it is), and the figures, which are printed."""
    paired = Paired(len(right), int((right & ~champion_right).sum()), int((champion_right & ~right).sum()))
    low, high = paired.interval
    top1, champion_top1 = float(right.float().mean()), float(champion_right.float().mean())
    difference = f"{paired.points:+.2f} points, 95 % interval {low:+.2f} to {high:+.2f}"
    print(
        f"  top-1: challenger {top1:.4f}, champion {champion_top1:.4f}: {difference}\n"
        f"  {paired.gained} photos only the challenger has right, {paired.lost} only the champion: "
        f"p = {paired.p_value:.3g} (exact McNemar test)"
    )
    notes = {"difference": difference, "champion_top1": f"{champion_top1:.4f}", "p_value": f"{paired.p_value:.3g}"}
    return why_not(paired, alpha), notes


def against_chance(right: Tensor, data: Data, alpha: float) -> tuple[str, dict[str, str]]:
    """The same where there is no champion: the challenger must beat whoever names the most frequent class always."""
    chance = max(Counter(photo.index for photo in data.held_out).values()) / len(right)
    p_value = float(binomtest(int(right.sum()), len(right), chance, "greater").pvalue)
    top1 = float(right.float().mean())
    print(f"  no champion yet: top-1 {top1:.4f}, by chance {chance:.4f}: p = {p_value:.3g} (exact binomial test)")
    reason = "" if p_value < alpha else f"that is no better than chance: p = {p_value:.3g}, not below {alpha:g}"
    return reason, {"chance": f"{chance:.4f}", "p_value": f"{p_value:.3g}"}


def promote(registry: Registry, run: Path | None, root: Path | None, alpha: float) -> bool:
    """Compare, tag the version with the figures and move the alias; whether its version is the champion now.

    ValueError if nothing can be compared.
    """
    version, holder = registry.challenger(run), registry.holder(CHAMPION)
    if holder is not None and str(version.version) == str(holder.version):
        print(f"{MODEL} {version.version} is the champion already")
        return True
    challenger, champion = registry.load(version), registry.load(holder) if holder is not None else None
    data = unseen_photos(challenger, champion, root)
    print(f"{MODEL} {version.version} on {len(data.held_out)} photos of {data.source} that no model here was trained on")
    right = answered_right(challenger, data)
    if champion is None:
        reason, notes = against_chance(right, data, alpha)
    else:
        reason, notes = against_champion(right, answered_right(champion, data), alpha)
    verdict = f"stays as it is: {reason}" if reason else f"is the {CHAMPION} now"
    notes |= {"against": str(holder.version) if holder else "none", "photos": str(len(right)), "data": data.fingerprint}
    notes |= {"top1": f"{float(right.float().mean()):.4f}", "alpha": f"{alpha:g}", "verdict": verdict}
    registry.note(version, notes | {"time": datetime.now(UTC).isoformat(timespec="seconds")})
    if not reason:
        registry.client.set_registered_model_alias(MODEL, CHAMPION, str(version.version))
    print(f"{MODEL} {version.version} {verdict}")
    return not reason


def main() -> int:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="folder of the challenger's run; default: the registered challenger")
    parser.add_argument("--data", type=Path, help="photos to ask; default: the challenger's data set")
    parser.add_argument("--alpha", type=float, default=ALPHA, help=f"p that a promotion must be below, default {ALPHA}")
    parser.add_argument("--fetch", metavar="ALIAS", help="download this version's checkpoint.pt, and promote nothing")
    parser.add_argument("--out", type=Path, help="folder for --fetch")
    args = parser.parse_args()
    if (args.fetch is None) != (args.out is None):
        parser.error("--fetch and --out belong together")
    try:
        if not 0 < args.alpha < 1:
            raise ValueError(f"alpha is {args.alpha}, expected a probability between 0 and 1")
        with said_plainly(tracking_uri()):
            registry = Registry(tracking_uri())
            if args.fetch is None:
                return 0 if promote(registry, args.run, args.data, args.alpha) else 1
            version = registry.named(args.fetch)
            print(f"{registry.fetch(version, args.out)} is {MODEL} {version.version}")
            write_state(args.out, registry.uri, version.run_id or "", 0)  # for make archive, which notes the run
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
