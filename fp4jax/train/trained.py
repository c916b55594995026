"""Trained: a run in its folder, as evaluation, diagnosis, prediction and analysis read it."""

import dataclasses
import logging
from pathlib import Path
from typing import Any

from fp4jax.data import Split
from fp4jax.files import read_json
from fp4jax.ops.recipe import Recipe
from fp4jax.train.best import read_best
from fp4jax.train.config import LATER, RunConfig
from fp4jax.train.folder import RunFolder
from fp4jax.train.model import Model
from fp4jax.train.patients import read_examples
from fp4jax.train.program import fitted, program_of
from fp4jax.train.records import from_json, is_earlier
from fp4jax.train.static_scales import read_amaxes, with_amaxes
from fp4jax.train.volumes import Volumes

_LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Trained:
    """A run that has parameters, finished or not.

    Attributes:
        folder: of the run.
        config: as it was trained.
        channels, regions: names, in the order of the network's.
        split: its patients; None in folders of version 0.1, which kept none.
        contents: digests of each patient's data, by which it is known under another name.
        digest: of the data it was trained on.
        summary: of a finished run.
        static: taken with the static scales that it was calibrated to.
    """

    folder: RunFolder
    config: RunConfig
    channels: tuple[str, ...]
    regions: tuple[str, ...]
    split: Split | None
    contents: dict[str, str]
    digest: str
    summary: dict[str, Any] | None
    static: bool = False

    @property
    def threshold(self) -> float:
        """Chosen on the validation patients; 0.5 before the run has ended."""
        if self.summary is None:
            return 0.5
        return float((self.summary["static"] if self.static else self.summary)["threshold"])

    @property
    def state(self) -> str:
        """Whether it is finished, or how far it is."""
        return "finished" if self.summary is not None else str(self.folder.status())

    def model(self, recipe: str | Recipe | None = None) -> Model:
        """The network of the best epoch so far, with another recipe than the run's if one is given.

        Raises:
            ValueError: no checkpoint has been written yet, or another recipe with static scales.
        """
        if recipe is not None and self.static:
            raise ValueError(
                f"the static scales of {self.folder.path} are those of its own recipe; leave out "
                "the other one, or the static scales."
            )
        sizes = len(self.channels), len(self.regions)
        program = program_of(self.config, *sizes)
        like = program.abstract()
        params, stats = read_best(self.folder.path, (like.params, like.stats))
        if recipe is not None:
            plain: dict[str, Any] = dict(LATER)
            config = dataclasses.replace(self.config, recipe=recipe, method="qat", **plain)
            program = program_of(config, *sizes)
            like = program.abstract()
            params, stats = fitted(like.params, params), fitted(like.stats, stats)
        model = Model(program, params, stats, self.channels, self.regions)
        return with_amaxes(model, read_amaxes(self.folder.path)) if self.static else model


def read_trained(path: Path, *, finished: bool = False, static: bool = False) -> Trained:
    """The run in a folder.

    Args:
        path: of the folder.
        finished: refuse a run that has not ended.
        static: with the static scales that it was calibrated to.

    Raises:
        ValueError: no run, one that has no parameters yet, or static scales of one without.
    """
    folder = RunFolder(path)
    record, summary = folder.config(), folder.summary()
    if record is None:
        within = sorted(child.parent for child in path.glob("*/config.json"))
        hint = f", such as {within[0]}" if within else ""
        raise ValueError(f"{path} holds no run; name a folder with a config.json{hint}.")
    if summary is None:
        state = str(folder.status())
        if finished or state == "not begun":
            raise ValueError(f"{path} holds no finished run ({state}); repeat its command first.")
        _LOG.warning("%s: %s; its best epoch so far is taken.", path.name, state)
    config = from_json(record)
    if static and "static" not in (summary or {}):
        raise ValueError(
            f"{path} has no static scales; train it with --calibrate max (percentile, mse), or use "
            "its own."
        )
    split = folder.split()
    if is_earlier(record):
        _LOG.warning("%s is of an earlier version, which kept no split; it is read as it is.", path)
    channels, regions = _names(record, summary or {}, config, path)
    return Trained(
        folder=folder,
        config=config,
        channels=channels,
        regions=regions,
        split=None if split is None else _split(split),
        contents=dict((split or {}).get("contents", {})),
        digest=record["digest"],
        summary=_earlier_summary(summary) if is_earlier(record) else summary,
        static=static,
    )


def _split(record: dict[str, Any]) -> Split:
    train, val, test = (tuple(record[part]) for part in ("train", "val", "test"))
    return Split(train, val, test, record["name"])


def _names(
    record: dict[str, Any], summary: dict[str, Any], config: RunConfig, path: Path
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Of channels and regions; of slices earlier versions kept only how many there are."""
    if "channels" in record:
        return tuple(record["channels"]), tuple(record["regions"])
    if isinstance(config.data, Volumes):
        if "modalities" in summary:
            return tuple(summary["modalities"]), tuple(summary["regions"])
        raise ValueError(f"{path} is an unfinished run of an earlier version; train it anew.")
    examples = path / "examples.npz"
    count = read_examples(examples).images.shape[-1] if examples.exists() else 3
    return tuple(f"channel {i}" for i in range(count)), ("lesion",)


def _earlier_summary(summary: dict[str, Any] | None) -> dict[str, Any] | None:
    """Volumes had no threshold and only each region's means."""
    if summary is None or "threshold" in summary:
        return summary
    return {**summary, "threshold": 0.5, "val": {}, "test_regions": summary["test"]}


def is_run(path: Path) -> bool:
    """Whether a folder is that of a run."""
    return path.is_dir() and read_json(path / "config.json") is not None
