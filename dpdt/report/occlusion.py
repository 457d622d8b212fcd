"""Occlusion maps: how far a model's score falls where a square of the image is painted over (Zeiler & Fergus 2014).

For any network: only scores are asked for. A map is an illustration; what it does not show: docs/report.md.
"""

import itertools
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dpdt.bundle.model import Score
from dpdt.evaluation.predict import scorer
from dpdt.report.names import model_name
from dpdt.runs.read import model_runs
from dpdt.study import Study

__all__ = ["Occlusion", "occlusion", "shown_model"]

PARTS: Final = 8  # squares along a side of the image
ORANGE: Final = (213, 94, 0)  # of Okabe and Ito's colours


class Occlusion(NamedTuple):
    """Of one image: the label with the highest score, that score, and its fall by pixel, (size, size)."""

    label: int
    score: float
    fall: NDArray[np.float64]

    def painted(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The image, (size, size), with the falls in orange, most opaque where the fall is largest: (size, size, 3)."""
        falls = np.maximum(self.fall, 0)
        opaque = 0.6 * falls[..., None] / max(float(falls.max()), np.finfo(float).tiny)
        grey = np.repeat(pixels[..., None].astype(float), 3, axis=2)
        mixed: NDArray[np.uint8] = np.rint(grey * (1 - opaque) + opaque * np.array(ORANGE)).astype(np.uint8)
        return mixed


def occlusion(score: Score, pixels: NDArray[np.uint8]) -> Occlusion:
    """Paint squares over with the image's mean grey, one at a time, and see what becomes of the highest score.

    Args:
        score: The model.
        pixels: The image, uint8, (size, size).
    """
    bounds = np.linspace(0, len(pixels), PARTS + 1).round().astype(int)
    sides = [slice(*pair) for pair in itertools.pairwise(bounds)]
    own = score(pixels[None])[0]
    label = int(own.argmax())
    fall = np.zeros(pixels.shape)
    for row in sides:
        images = np.repeat(pixels[None], PARTS, axis=0)
        for image, column in zip(images, sides, strict=True):
            image[row, column] = round(pixels.mean())
        for column, value in zip(sides, score(images)[:, label], strict=True):
            fall[row, column] = float(own[label]) - float(value)
    return Occlusion(label, float(own[label]), fall)


def shown_model(study: Study, domain: str) -> tuple[str, Score] | None:
    """The model whose maps are shown of a hospital's images, its name and scores; None where none is tested yet.

    It was trained there (else at the first hospital), with DP (the lowest ε) where any was, with the first seed.

    Args:
        study: A study's view.
        domain: The test domain.
    """
    tested = [run for run in model_runs(study).values() if run and run.metrics_footer() is not None]
    runs = [run for run in tested if run.kind == "train" and run.paths.weights.exists()]
    if not runs:
        return None
    order = list(study.train_domains)
    run = min(runs, key=lambda one: (one.domain != domain, order.index(one.domain), one.target_epsilon, one.seed))
    return model_name(run), scorer(study, run.paths.weights, device="auto")
