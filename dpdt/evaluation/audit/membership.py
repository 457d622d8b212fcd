"""Membership inference: can the loss tell who was in the training?

The oldest attack (Yeom et al. 2018, arXiv 1709.01604): people of the training have smaller losses than others. A
person's score is minus the mean loss of their images; its AUC over the domain's train patients against its val and
test patients is 0.5 where the model has kept nothing that this attack can see. It is no bound on what another attack
may see.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from dpdt.errors import ShardError
from dpdt.evaluation.metrics import FEWEST_PATIENTS, auc_covariance
from dpdt.evaluation.predict import predictor, wide
from dpdt.runs.read import Run
from dpdt.study import Study

__all__ = ["Membership", "infer_membership", "membership_auc", "membership_text", "patient_losses"]

SMALLEST: Final = 1e-12  # a probability of 0 costs as much


@dataclass(frozen=True)
class Membership:
    """How well the attack does.

    Attributes:
        auc: Of train patients against others, 0.5 for a guess.
        low: Lower end of its interval (DeLong; every patient is one independent value); NaN with fewer than
            FEWEST_PATIENTS members or others, or where no patient moves the AUC.
        high: Upper end.
        confidence: Of the interval.
        members: Patients of the train split.
        others: Patients of val and test.
    """

    auc: float
    low: float
    high: float
    confidence: float
    members: int
    others: int

    def as_dict(self) -> dict[str, Any]:
        """For audit.json; None where a number is undefined."""
        return {key: None if isinstance(v, float) and math.isnan(v) else v for key, v in asdict(self).items()}


def patient_losses(predictions: pd.DataFrame) -> NDArray[np.float64]:
    """Mean binary cross-entropy of each patient's images over their known labels.

    Args:
        predictions: As ``dpdt.predict`` gives them.

    Returns:
        Shape (patients,); patients without a known label are left out.
    """
    images = wide(predictions)
    labels = list(predictions["label"].unique())
    target = images[[f"target_{label}" for label in labels]].to_numpy(dtype=np.float64)
    score = images[[f"score_{label}" for label in labels]].to_numpy(dtype=np.float64)
    likelihood = np.where(target == 1, score, 1 - score)
    losses = pd.DataFrame(np.where(np.isnan(target), np.nan, -np.log(np.maximum(likelihood, SMALLEST))))
    found: NDArray[np.float64] = losses.mean(axis=1).groupby(images["patient_key"]).mean().dropna().to_numpy()
    return found


def membership_auc(
    members: NDArray[np.float64], others: NDArray[np.float64], *, confidence: float = 0.95
) -> Membership:
    """AUC of minus the loss, with DeLong's interval.

    Args:
        members: Losses of patients of the training, shape (m,).
        others: Losses of others, shape (n,).
        confidence: In (0, 1).
    """
    target = np.concatenate((np.ones(len(members)), np.zeros(len(others))))
    aucs, covariance = auc_covariance(target, -np.concatenate((members, others))[None])
    known = min(len(members), len(others)) >= FEWEST_PATIENTS and covariance[0, 0] > 0
    error = math.sqrt(covariance[0, 0]) * float(stats.norm.ppf((1 + confidence) / 2)) if known else math.nan
    auc = float(aucs[0])
    low, high = (float(np.clip(auc + sign * error, 0, 1)) for sign in (-1, 1))
    return Membership(auc, low, high, confidence, len(members), len(others))


def membership_text(found: Mapping[str, Any]) -> str:
    """AUC and interval of ``Membership.as_dict`` for people.

    >>> membership_text({"auc": 0.5, "low": None, "high": None})
    '0.500 (no interval: too few patients)'
    """
    if found["auc"] is None:
        return "–"
    bounds = "no interval: too few patients"
    if found["low"] is not None:
        bounds = f"{found['low']:.3f} to {found['high']:.3f}"
    return f"{found['auc']:.3f} ({bounds})"


def infer_membership(study: Study, run: Run, *, confidence: float = 0.95) -> Membership:
    """Attack a finished run with the patients of its train domain.

    Raises:
        ShardError: The domain's shards are missing or damaged, or it has neither val nor test images.
    """
    from dpdt.shards.dataset import load_split

    splits = ["train"]
    for split in ("val", "test"):
        try:
            load_split(study, run.domain, split)
        except ShardError:
            continue
        splits.append(split)
    with predictor(study, run.paths, [(run.domain, split) for split in splits]) as predict:
        losses = [patient_losses(predict(run.domain, split)) for split in splits]
    if len(losses) == 1:
        raise ShardError(
            f"{run.domain}: no image is in split val or test, and the attack compares train patients with those."
        )
    return membership_auc(losses[0], np.concatenate(losses[1:]), confidence=confidence)
