"""A model's scores on one split of one domain, and the Parquet files that hold them.

A file says in its metadata (the stamp) which weights, pixels and split it was made from, so that it is used again only
where all of them are the same.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dpdt.base.console import progress
from dpdt.base.files import fingerprint
from dpdt.base.parquet import Stamp, read_stamp
from dpdt.base.vocabulary import age_group
from dpdt.bundle.model import Score
from dpdt.errors import ShardError
from dpdt.study import Study
from dpdt.study.paths import RunPaths

if TYPE_CHECKING:
    from torch import nn

    from dpdt.shards.dataset import DomainData

__all__ = [
    "ALONE",
    "PREDICTION_COLUMNS",
    "Predict",
    "in_pieces",
    "predictor",
    "read_predictions",
    "scorer",
    "scores_alone",
    "trained_network",
    "wide",
]

ALONE: Final = "alone"
"""In the stamp: whether every score is of its image alone (`scores_alone`); not there in older files."""
PREDICTION_COLUMNS: Final = ("image_id", "patient_key", "sex", "age_group", "label", "target", "score")

Predict = Callable[[str, str], pd.DataFrame]


@contextmanager
def predictor(
    study: Study,
    paths: RunPaths,
    splits: Sequence[tuple[str, str]],
    *,
    weights: Path | None = None,
    score: Score | None = None,
    labels: Collection[str] | None = None,
) -> Iterator[Predict]:
    """Load a model and the data that it shall be tested on; show one progress bar for all of it.

    Args:
        study: The study.
        paths: A finished run.
        splits: (domain, split) pairs that will be asked for.
        weights: The model's; default: the run's own.
        score: Instead of weights: another hospital's model.
        labels: Those that the model has, default: the study's; of the others no target counts.

    Yields:
        A function from domain and split to predictions with PREDICTION_COLUMNS, one row an image and label; `attrs`
        has ALONE, of `scores_alone`.

    Raises:
        ShardError: Shards are missing or damaged, or a score is not finite.
    """
    from dpdt.shards.dataset import load_split

    data = {(domain, split): load_split(study, domain, split) for domain, split in splits}
    score = score or scorer(study, weights or paths.weights, device=study.train.device)
    has = np.isin(study.study.labels, list(labels or study.study.labels))
    size = study.train.images_at_once
    alone = scores_alone(score, images_at_once=size, size=study.shards.size)
    total = sum(len(part) for part in data.values())
    with progress(f"evaluate {paths.run_id}", total, unit="images") as advance:

        def predict(domain: str, split: str) -> pd.DataFrame:
            part = data[domain, split]
            scores = in_pieces(score, part, images_at_once=size, advance=lambda done: advance(done, domain))
            _check_finite(scores[:, has], paths.run_id, domain)
            found = _long(study, domain, part, scores, has)
            found.attrs[ALONE] = alone
            return found

        yield predict


def in_pieces(
    score: Score, images: "DomainData", *, images_at_once: int, advance: Callable[[int], object]
) -> NDArray[np.float32]:
    """Scores (n, labels) of all images, in pieces of one size: others are rounded otherwise. The last is filled up."""
    pixels = np.zeros((images_at_once, images.size, images.size), dtype=np.uint8)
    found = []
    for first in range(0, len(images), images_at_once):
        positions = np.arange(first, min(first + images_at_once, len(images)))
        images.images(positions, out=pixels[: len(positions)])
        pixels[len(positions) :] = 0
        found.append(score(pixels)[: len(positions)])
        advance(len(positions))
    return np.concatenate(found or [score(pixels)[:0]])


def scores_alone(score: Score, *, images_at_once: int, size: int) -> bool:
    """Whether an image has the same score, bit for bit, at another place of a piece and beside other images.

    Else a test patient who leaves moves other patients' scores, and no noise for one patient's part of a count covers
    that. Tried with made-up images on the device that the model is tested on.
    """
    images = np.random.default_rng(0).integers(0, 256, (images_at_once + 1, size, size), dtype=np.uint8)
    return np.array_equal(score(images[:-1])[1:], score(images[1:])[:-1])


def _check_finite(scores: NDArray[np.float32], run_id: str, domain: str) -> None:
    bad = int((~np.isfinite(scores)).any(axis=1).sum())
    if bad:
        raise ShardError(
            f"run {run_id}: {bad} of {len(scores)} scores on {domain} are not finite; expected probabilities. The "
            f"training diverged or its weights are damaged: move the run's folder away, and train again, with a lower "
            f"train.learning_rate if need be."
        )


def scorer(study: Study, weights: Path, *, device: str) -> Score:
    """The study's network with these weights: a function from pixels (k, size, size) to probabilities (k, labels).

    Args:
        study: The study, or its view.
        weights: The model's.
        device: ``auto``, ``cpu`` or ``cuda``.

    Raises:
        DpdtError: The network cannot be built, the weights are not its own, or the device is not there.
    """
    import torch

    from dpdt.training.device import choose_device
    from dpdt.training.networks.build import scorer_of

    if study.train.num_threads:
        torch.set_num_threads(study.train.num_threads)
    return scorer_of(trained_network(study, weights), choose_device(device))


def trained_network(study: Study, weights: Path) -> "nn.Module":
    """The study's network with these weights; raises as `scorer` does."""
    from dpdt.training.networks.build import build_model
    from dpdt.training.networks.weights import load_weights

    labels = study.study.labels
    model = build_model(study.model, size=study.shards.size, folder=study.file.parent, num_outputs=len(labels))
    load_weights(model, weights, labels=labels)
    return model


def _long(
    study: Study, domain: str, data: "DomainData", scores: NDArray[np.float32], has: NDArray[np.bool_]
) -> pd.DataFrame:
    """Predictions as they are stored: one row an image and label."""
    frame = data.frame
    # Not the patient's id: predictions are what people copy elsewhere to compute their own statistics. The key is the
    # same in every run of a study, so that all models share their bootstrap draws. It hides ids from a reader, not from
    # an attacker with a list of them: the files stay in the study's folder all the same.
    keys = {p: fingerprint([study.study.seed, domain, p])[:16] for p in frame["patient_id"].unique()}
    images = pd.DataFrame(
        {
            "image_id": np.asarray(data.image_ids, dtype=object),
            "patient_key": frame["patient_id"].map(keys).to_numpy(),
            "sex": frame["sex"].to_numpy(),
            "age_group": [age_group(age) for age in frame["age_years"]],
        }
    )
    parts = []
    for number, label in enumerate(study.study.labels):
        known = data.labels[:, number] if has[number] else np.full(len(images), np.nan, dtype=np.float32)
        target = pd.array(known, dtype="Float32").astype("Int8")
        parts.append(images.assign(label=label, target=target, score=scores[:, number]))
    return pd.concat(parts, ignore_index=True)[list(PREDICTION_COLUMNS)]


def wide(predictions: pd.DataFrame) -> pd.DataFrame:
    """One row an image with `target_<label>` (NaN = unknown) and `score_<label>`, as the metrics want it.

    The labels are those of the predictions, in their order.
    """
    row, images = pd.factorize(predictions["image_id"])
    column, labels = pd.factorize(predictions["label"])
    about = predictions.columns.intersection(["image_id", "patient_key", "sex", "age_group"], sort=False)
    first = predictions[about].iloc[np.unique(row, return_index=True)[1]].reset_index(drop=True)
    target, score = np.full((len(labels), len(images)), np.nan), np.full((len(labels), len(images)), np.nan, np.float32)
    target[column, row] = predictions["target"].to_numpy("float64", na_value=np.nan)
    score[column, row] = predictions["score"]
    columns: dict[str, NDArray[Any]] = {}
    for number, label in enumerate(labels):
        columns |= {f"target_{label}": target[number], f"score_{label}": score[number]}
    whole: pd.DataFrame = first.join(pd.DataFrame(columns))
    return whole


def read_predictions(path: Path, stamp: Stamp, labels: Sequence[str]) -> pd.DataFrame | None:
    """Predictions with exactly this stamp and these labels; None if they are missing, others, or damaged."""
    try:
        if read_stamp(path) != stamp:
            return None
        frame = pd.read_parquet(path)
    except (OSError, ValueError):
        return None
    whole = tuple(frame.columns) == PREDICTION_COLUMNS and tuple(frame["label"].unique()) == tuple(labels)
    whole = whole and len(frame) % len(labels) == 0
    return frame if whole else None
