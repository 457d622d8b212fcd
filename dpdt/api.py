"""What the command line does, from a notebook in a few lines.

Everything goes through the same stages and files as `dpdt …`: what is done is kept, and a training that a notebook
began can go on in a Slurm job.
"""

import contextlib
import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from dpdt.base.files import read_json
from dpdt.base.vocabulary import format_bound
from dpdt.cohort.table import read_cohort, read_record
from dpdt.errors import DpdtError, StudyError
from dpdt.evaluation.metrics import COLUMNS
from dpdt.evaluation.predict import PREDICTION_COLUMNS
from dpdt.jobs.stages import is_done, private_umask, run_stage
from dpdt.runs.read import model_runs
from dpdt.runs.state import read_state
from dpdt.shards.dataset import load_split
from dpdt.study import Cell, Study, load_study
from dpdt.study.tasks import STAGES, tasks
from dpdt.training.networks.build import build_model
from dpdt.training.networks.weights import load_weights

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Cohort", "Shards", "Study", "Trained", "evaluate", "load_study", "results", "train"]


class Cohort:
    """The cohort of a domain; read from the raw metadata if that was not done yet.

    Args:
        study: The study.
        domain: One of its domains.

    Attributes:
        table: One row an image: `image_id, path, domain, patient_id, study_id, view, sex, age_years, split`, labels.
        exclusions: Every row that was left out, with its reason.
        policies: By name, as the stage prints them.

    Raises:
        StudyError: The study has no such domain.
        CohortError: The raw metadata is not as published.
    """

    def __init__(self, study: Study, domain: str) -> None:
        _prepare(study, domain, "cohort")
        self.study = study
        self.domain = domain
        self.table: pd.DataFrame = read_cohort(study, domain)
        self.exclusions: pd.DataFrame = pd.read_csv(study.paths.cohort_exclusions(domain))
        self.policies: dict[str, Any] = read_record(study, domain)["policies"]

    def __len__(self) -> int:
        """Number of images."""
        return len(self.table)

    def __repr__(self) -> str:
        """For people."""
        patients = self.table["patient_id"].nunique()
        return f"Cohort({self.domain!r}: {len(self):,} images of {patients:,} patients)"


class Shards(Dataset[tuple[Tensor, Tensor]]):
    """Images and labels of one split of one domain, for a `torch.utils.data.DataLoader`.

    An item is (float32 in 0..1 of shape (1, size, size), float32 of shape (labels,): 1, 0, NaN where unknown). Shards
    that are not there yet are made.

    Args:
        study: The study.
        domain: One of its domains.
        split: `train`, `val` or `test`.

    Raises:
        StudyError: The study has no such domain, or there is no such split.
        ShardError: Too many images cannot be used.
    """

    def __init__(self, study: Study, domain: str, split: str = "train") -> None:
        if split not in ("train", "val", "test"):
            raise StudyError(f"split: expected train, val or test, got {split!r}.")
        _prepare(study, domain, "shards")
        self._data = load_split(study, domain, split)
        self.domain = domain
        self.split = split

    @property
    def labels(self) -> "NDArray[np.float32]":
        """float32, (n, labels): 1, 0, NaN where unknown."""
        return self._data.labels

    @property
    def frame(self) -> pd.DataFrame:
        """Rows of the cohort table, aligned with the images. Has patient ids: not for logs."""
        return self._data.frame

    def __len__(self) -> int:
        """Number of images."""
        return len(self._data)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """One image and its labels; a negative index counts from the end."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"{self.domain} {self.split}: image {index} of {len(self)}")
        pixels = self._data.images(np.array([index % len(self)]))
        return torch.from_numpy(pixels).float().div_(255), torch.from_numpy(self._data.labels[index].copy())

    def __repr__(self) -> str:
        """For people."""
        return f"Shards({self.domain!r}, {self.split!r}: {len(self):,} images of {self._data.size}²)"


@dataclass(frozen=True)
class Trained:
    """One finished training.

    Attributes:
        study: Of which it is a part.
        cell: Domain, target epsilon, seed.
        epsilon: What it spent, from its ledger; None without DP.
    """

    study: Study
    cell: Cell
    epsilon: float | None

    def __repr__(self) -> str:
        """For people."""
        return f"Trained({self.run_id!r}: epsilon {'none' if self.epsilon is None else format_bound(self.epsilon)})"

    @property
    def run_id(self) -> str:
        """Name of its folder below `runs/`."""
        return self.study.run_id(self.cell)

    @property
    def weights(self) -> Path:
        """The final weights, a state dict."""
        return self.study.paths.run(self.run_id).weights

    @property
    def statement(self) -> dict[str, Any]:
        """The privacy statement."""
        found: dict[str, Any] = read_json(self.study.paths.run(self.run_id).privacy)
        return found

    def model(self) -> nn.Module:
        """The network with these weights, on the CPU, ready to predict: logits in the order of the study's labels."""
        labels = self.study.study.labels
        model = build_model(
            self.study.model, size=self.study.shards.size, folder=self.study.file.parent, num_outputs=len(labels)
        )
        load_weights(model, self.weights, labels=labels)
        return model.eval()


def train(
    study: Study,
    domain: str,
    *,
    target_epsilon: float = math.inf,
    seed: int | None = None,
    initial: str | None = None,
    fraction: float | None = None,
) -> Trained:
    """Train one model of the study, with what it needs before: cohort, shards, and the public pretraining.

    Args:
        study: The study.
        domain: One of its train domains.
        target_epsilon: One of its target epsilons; infinity is the arm without DP.
        seed: One of its seeds; default: the first.
        initial: One of its starts; default: the first.
        fraction: One of its parts of the patients; default: the first.

    Returns:
        The finished training; at once if it was finished before.

    Raises:
        StudyError: The study has no such training.
        DpdtError: The training was interrupted.
        PrivacyError: Going on would make the epsilon wrong.
    """
    start = next(iter(study.initial), "") if initial is None else initial
    part = study.train.fraction[0] if fraction is None else fraction
    cell = Cell(domain, float(target_epsilon), study.train.seeds[0] if seed is None else seed, start, part)
    if cell not in study.cells():
        known = "; ".join(
            ", ".join(filter(None, (c.domain, c.axes, f"epsilon {c.target_epsilon:g}, seed {c.seed}")))
            for c in study.cells()
        )
        raise StudyError(f"train: the study has no training {(*cell[:3], *cell.recorded.values())}. It has: {known}.")
    _prepare(study, domain, "shards")
    axes: dict[str, Any] = {"initials": [start] if start else None}
    if public := study.at(cell).public_domain:
        _prepare(study, public, "shards")
        _run(study, "pretrain", **axes)
    axes["fractions"] = [part]
    _run(study, "train", domains=[domain], target_epsilons=[cell.target_epsilon], seeds=[cell.seed], **axes)
    state = read_state(study.paths.run(study.run_id(cell))) or {}
    if state.get("status") != "finished":
        raise DpdtError(f"{study.run_id(cell)}: was interrupted. Call train again: it goes on.")
    return Trained(study.at(cell), cell, state["epsilon"])


def evaluate(trained: Trained) -> pd.DataFrame:
    """Test a model on every test domain of its study.

    Args:
        trained: What `train` returned.

    Returns:
        The run's metrics, one row a domain, label, subgroup and metric, as `metrics.parquet` holds them.

    Raises:
        DpdtError: A test domain has no cohort or images.
    """
    study = trained.study
    for domain in study.test_domains:
        _prepare(study, domain, "shards")
    from dpdt.evaluation.evaluate import evaluate_run

    with private_umask(study):
        evaluate_run(study, trained.run_id)
    return pd.read_parquet(study.paths.run(trained.run_id).metrics)


def results(study: Study, *, predictions: bool = False) -> pd.DataFrame:
    """All that the models of a study were found to do, in one table.

    Args:
        study: The study; its models are tested already (`dpdt submit`, `evaluate`).
        predictions: The scores of the test images instead of the metrics.

    Returns:
        A row a metric, as `metrics.parquet` has them, or a row an image and label, as `predictions/` has them; before
        that train_domain, target_epsilon (infinity without DP, 0 before private data), seed, run_id, and initial and
        fraction where the study has several starts or parts of the patients. No rows if nothing is tested yet.
    """
    of_run = ["train_domain", "target_epsilon", "seed", "run_id", *(["initial", "fraction"] * (len(study.views) > 1))]
    found = []
    for cell, run in model_runs(study).items():
        if run is None or not run.paths.metrics.exists():
            continue
        names: dict[str, Any] = dict(
            zip(of_run, (*cell[:3], run.run_id, cell.initial, cell.fraction), strict=False)  # the axes where asked
        )
        files = {name: run.paths.predictions(name) for name in study.test_domains}
        tables = [pd.read_parquet(file).assign(test_domain=name) for name, file in files.items()] if predictions else []
        for table in tables or [pd.read_parquet(run.paths.metrics)]:
            columns = [*names, "test_domain", *table.columns.drop("test_domain")]
            found += [table.assign(**names)[columns]]
    if found:
        return pd.concat(found, ignore_index=True)
    of_table = PREDICTION_COLUMNS if predictions else COLUMNS
    return pd.DataFrame(columns=[*of_run, "test_domain", *(name for name in of_table if name != "test_domain")])


def _prepare(study: Study, domain: str, stage: str) -> None:
    """Run the stages up to one for a domain, where they are not done."""
    if domain not in study.used_domains:
        raise StudyError(f"{domain}: not in the study. Its domains: {', '.join(study.used_domains)}.")
    for name in STAGES[: STAGES.index(stage) + 1]:
        if not all(is_done(study, task) for task in tasks(study, name) if task.key == domain):
            _run(study, name, domains=[domain])


def _run(study: Study, stage: str, **chosen: Any) -> None:
    """Run a stage without its tables, which a notebook has no use for; progress and warnings stay on stderr."""
    with contextlib.redirect_stdout(io.StringIO()):
        run_stage(study, stage, **chosen)
