"""Geometry of a representation, and a linear probe of it; the quantities that arXiv 2603.01098 names."""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["displacement", "effective_dimension", "probe"]

Floats = NDArray[np.floating]
CONSTANT: Final = 1e-12  # of the mean square: a variance below it is rounding


def displacement(features: Floats, initial: Floats) -> float:
    """How far images moved from where they began: mean distance, over the mean length of the beginning.

    Args:
        features: (images, width).
        initial: The same images' before the training, (images, width).

    Returns:
        0 where nothing moved; NaN where the beginning has no length.

    >>> displacement(np.array([[0.0, 2.0]]), np.array([[2.0, 0.0]])) == 2**0.5
    True
    """
    moved, length = (
        np.linalg.norm(values, axis=1).mean(dtype=np.float64)
        for values in (features.astype(np.float64) - initial, initial.astype(np.float64))
    )
    return float(moved / length) if length > 0 else float("nan")


def effective_dimension(features: Floats) -> float:
    """Spectral effective dimension: e to the entropy of the covariance's eigenvalues, which are made to sum to 1.

    Rotation, scale and shift leave it; it is k where k directions have all the variance, in equal parts (effective
    rank: Roy & Vetterli 2007, EUSIPCO, of the covariance).

    Args:
        features: (images, width).

    Returns:
        From 1 to the smaller of width and images - 1; NaN where all images are in one place.

    >>> effective_dimension(np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]]))
    2.0
    """
    wide = features.astype(np.float64)
    centred = wide - wide.mean(axis=0)
    gram = centred.T @ centred if centred.shape[1] <= len(centred) else centred @ centred.T
    values = np.linalg.eigvalsh(gram).clip(min=0)
    if values.sum() <= CONSTANT * (wide**2).sum():
        return float("nan")
    parts = values[values > 0] / values.sum()
    return float(np.exp(-(parts * np.log(parts)).sum()))


def probe(features: Floats, target: NDArray[np.floating], tested: Floats) -> NDArray[np.float64]:
    """A linear probe: logistic regression on standardised features, fitted on some images, its logits of others.

    The sum of the losses and half the squared norm of the weights (not of the intercept) is least: scikit-learn's
    ``LogisticRegression(C=1)`` behind a ``StandardScaler``, both of the fitted images alone.

    Args:
        features: Of the images to fit on, (n, width).
        target: 0 or 1 for each of them; both occur.
        tested: Of others, (k, width).

    Returns:
        (k,).
    """
    from scipy.optimize import minimize

    mean, deviation = features.mean(axis=0, dtype=np.float64), features.std(axis=0, dtype=np.float64)
    scale = np.where(deviation > 0, deviation, 1.0)
    x, signs = (features - mean) / scale, np.where(target == 1, 1.0, -1.0)

    def loss(weights: NDArray[np.float64]) -> Any:
        margins = signs * (x @ weights[:-1] + weights[-1])
        slopes = -signs * np.exp(-np.logaddexp(0, margins))  # -sign · sigmoid(-margin)
        gradient = np.append(x.T @ slopes + weights[:-1], slopes.sum())
        value = np.logaddexp(0, -margins).sum() + weights[:-1] @ weights[:-1] / 2
        return float(value) / len(x), gradient / len(x)

    options: Any = {"maxiter": 1000, "ftol": 1e-14, "gtol": 1e-9}
    begin = np.zeros(x.shape[1] + 1)
    found: NDArray[np.float64] = minimize(loss, begin, jac=True, method="L-BFGS-B", options=options).x
    logits: NDArray[np.float64] = (tested - mean) / scale @ found[:-1] + found[-1]
    return logits
