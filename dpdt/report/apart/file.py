"""The file of a hospital's results: what it may hold, how it is written, and what is checked where it is read."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import Field, ValidationError

from dpdt.bundle.container import BLANK, CHECKSUM, check_seal, read_bytes, seal, strict_json
from dpdt.bundle.manifest import Count, Name, NotNegative, Part, Probability, Short, key_of
from dpdt.bundle.signature import signed_by
from dpdt.errors import BundleError
from dpdt.evaluation.metrics import ALL, AVERAGE

__all__ = ["FORMAT", "NOISY_FORMAT", "OWN_LIST", "Results", "as_bytes", "read_results", "unreadable"]

FORMAT: Final = 1
NOISY_FORMAT: Final = 2
"""Of results with noise: who reads format 1 alone would take them for exact ones."""
MOST_BYTES: Final = 64 << 20
OWN_LIST: Final = "own list"
"""Begins the definition of a label that a hospital's own list makes."""

Hash = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class Model(Part):
    """Which model the numbers are of; `target_epsilon` is null without DP, 0 for the one before all trainings."""

    model: Count
    train_domain: Name
    target_epsilon: NotNegative | None
    seed: Count
    unit: Literal["patient", "image", "unknown"]
    epsilon: NotNegative | None
    delta: Annotated[float, Field(ge=0, le=1)] | None
    weights_sha256: Hash
    carried: bool


class AucRow(Part):
    """One AUC. Of an average: `labels` that it is over, and no counts."""

    model: Count
    test_domain: Name
    label: Name
    subgroup: Name
    auc: Probability
    ci_low: Probability | None
    ci_high: Probability | None
    standard_error: NotNegative | None
    n: Count | None
    n_positive: Count | None
    labels: Annotated[str, Field(max_length=20_000, pattern="^[A-Za-z0-9_,]*$")]


class Bin(Part):
    """Images whose score is in a bin: curves and calibration come from these."""

    model: Count
    test_domain: Name
    label: Name
    low: Probability
    high: Probability
    n: Count
    n_positive: Count
    mean_score: Probability


class NoisyBin(Part):
    """Patients whose score is in a bin, with noise; rates of calling this bin and those above positive."""

    model: Count
    test_domain: Name
    label: Name
    low: Probability
    high: Probability
    positives: Annotated[int, Field(ge=-(2**53), le=2**53)]
    negatives: Annotated[int, Field(ge=-(2**53), le=2**53)]
    sensitivity: Probability | None
    specificity: Probability | None
    observed: Probability | None


class Privacy(Part):
    """The guarantee of the test patients, for all numbers of the file together."""

    epsilon: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    delta: Annotated[float, Field(gt=0, lt=1)]
    unit: Literal["patient"]
    histograms: Count
    deviation: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    exports: Count
    epsilon_of_all_exports: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None


class Pair(Part):
    """A model against its twin without DP (`against` null) or the one before (0): macro AUC on the same patients."""

    train_domain: Name
    target_epsilon: NotNegative | None
    seed: Count
    test_domain: Name
    against: NotNegative | None
    difference: Annotated[float, Field(ge=-1, le=1)]
    standard_error: NotNegative | None
    p: Probability | None


class Results(Part):
    """One hospital's results."""

    format: Literal[1, 2]
    site: Name
    synthetic: bool
    minimum: Annotated[int, Field(ge=1)]
    noise: Annotated[str, Field(max_length=2000)]
    labels: list[Name]
    policies: dict[Name, dict[Short, Any]]
    definitions: dict[Name, dict[Name, Annotated[str, Field(max_length=20_000)]]]
    input: dict[Short, Any]
    versions: dict[Short, Short]
    evaluation: dict[Short, Any]
    models: list[Model]
    auc: list[AucRow]
    bins: list[Bin]
    pairs: list[Pair]
    privacy: Privacy | None = None
    noisy_bins: list[NoisyBin] = Field(default_factory=list)
    signer: Short = Field(default="", exclude=True)  # not of the file: who signed it


def read_results(path: Path, *, signers: Path | None = None) -> Results:
    """Read and check a results file.

    Raises:
        BundleError: It is no such file, damaged, of a newer format, or not signed by one of the trusted keys.
    """
    data = read_bytes(path, most=MOST_BYTES)
    signer = "" if signers is None else signed_by(data, path, signers)
    try:
        plain = strict_json(data.decode("utf-8"))
    except (ValueError, TypeError, RecursionError) as err:
        raise BundleError(f"{path}: not a results file. Expected what `dpdt results export` wrote.") from err
    check_seal(data, plain.pop(CHECKSUM, None), str(path))
    found = plain.get("format")
    if type(found) is int and found > NOISY_FORMAT:
        raise BundleError(
            f"{path}: results of format {found}; this dpdt reads up to {NOISY_FORMAT}. Install a newer dpdt."
        )
    try:
        results = Results.model_validate({**plain, "signer": signer})
    except ValidationError as err:
        raise BundleError(f"{path}: {_first(err)}. Ask for it again.") from err
    wrong = _wrong(results)
    if wrong:
        raise BundleError(f"{path}: {wrong}. Ask for it again.")
    return results


def unreadable(results: Mapping[str, Any]) -> str:
    """Why nobody could read these results; an empty text where they are well."""
    try:
        return _wrong(Results.model_validate(results))
    except ValidationError as err:
        return _first(err)


def _first(err: ValidationError) -> str:
    """Where the first value is that cannot be, and why."""
    first = err.errors()[0]
    return f"{key_of(first)}: {first['msg']}"


def _wrong(results: Results) -> str:
    """What no hospital's export can hold: numbers that would be put into a mean, or shown, without a word."""
    models = {model.model for model in results.models}
    cells = {(model.train_domain, model.target_epsilon, model.seed) for model in results.models}
    rows: list[tuple[Any, ...]] = [(r.model, r.test_domain, r.label, r.subgroup) for r in results.auc]
    numbers: list[AucRow | Bin | NoisyBin] = [*results.auc, *results.bins, *results.noisy_bins]
    names = {*results.labels, AVERAGE}
    if len(models) != len(results.models) or not {one.model for one in numbers} <= models:
        return "numbers of a model that it does not name"
    if len(cells) != len(results.models) or len(set(rows)) != len(rows):
        return "two models of one name, or two AUCs of one cell"
    for row in numbers:
        if row.test_domain not in results.policies or row.label not in names:
            return f"a number of {row.test_domain}, {row.label}, which it does not describe"
        if not isinstance(row, NoisyBin) and (row.n_positive or 0) > (row.n or 0):
            return f"more positive images than images of {row.label}"
    if any(not {*row.labels.split(",")} <= names for row in results.auc if row.label == AVERAGE):
        return "an average over labels that it does not describe"
    exact = results.bins or results.pairs or any(row.subgroup != ALL for row in results.auc)
    if (results.format == NOISY_FORMAT) != (results.privacy is not None) or (
        exact if results.privacy else results.noisy_bins
    ):
        return "exact numbers beside a guarantee for test patients, or noise without one"
    return ""


def as_bytes(results: Mapping[str, Any]) -> bytes:
    """The file, with a checksum that finds damage."""
    return seal((json.dumps({**results, CHECKSUM: BLANK}, indent=1, allow_nan=False) + "\n").encode())
