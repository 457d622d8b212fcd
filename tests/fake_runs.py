"""Hand-made run folders, as training and evaluation leave them, for the tests of those who only read them."""

import json
import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from dpdt.base.files import atomic_path, make_folder, write_json, write_text
from dpdt.base.parquet import write_stamped
from dpdt.base.vocabulary import LABELS
from dpdt.evaluation.metrics import Threshold, measure_domain, patient_draws
from dpdt.evaluation.predict import ALONE
from dpdt.report import figures
from dpdt.report.canvas import Drawing
from dpdt.study import BEFORE, Cell, Study, load_study
from dpdt.study.paths import RunPaths

FIVE = ("vindr", "chestxray14", "chexpert", "uka", "padchest")
NUM_STEPS = 40
HUNDRED = 100
BEGUN = 1_700_000_000.0  # seconds since 1970


@dataclass(frozen=True)
class FakeRuns:
    """A study's folder with made-up runs, without any training."""

    study: Study

    def train(self, cell: Cell, *, status: str = "finished", steps: int = NUM_STEPS) -> RunPaths:
        """What a training writes: of NUM_STEPS steps, or of more."""
        num_steps = max(NUM_STEPS, steps)
        paths, view = self.study.paths.run(self.study.run_id(cell)), self.study.at(cell)
        make_folder(paths.folder)
        private = cell.private
        left_out = {"train", "privacy", "evaluate"} if cell.domain == BEFORE else set()
        left_out |= {"study", "domains", "initial", "tracking", "cluster"}
        settings = view.model_dump(mode="json", exclude=left_out)
        config = {
            "run_id": paths.run_id,
            "kind": "pretrain" if cell.domain == BEFORE else "train",
            "domain": self.study.public_domain if cell.domain == BEFORE else cell.domain,
            **cell.recorded,
            "seed": cell.seed,
            "target_epsilon": cell.target_epsilon if private else None,
            "settings": json.loads(json.dumps(settings, default=str).replace("Infinity", "null")),
            "data": {
                "key_id": "1" * 16,
                "split_hmac": "5" * 64,
                "manifest_hmac": "a" * 64,
                "units": 300,
                "images": 500,
            },
            "num_steps": num_steps,
            "sample_rate": 0.1,
            "noise_multiplier": 1.25 if private else None,
            "versions": {"dpdt": "0.1.0", "torch": "2.13.0"},
            "synthetic": True,
        }
        write_json(paths.config, config)
        spent = [math.sqrt((step + 1) / num_steps) * cell.target_epsilon if private else None for step in range(steps)]
        lines = [
            {
                "step": step + 1,
                "epoch": step // 10,
                "loss": 0.7 / (1 + step / 20),
                "epsilon": spent[step],
                "step_s": 0.05,
                "time": BEGUN + step,
            }
            for step in range(steps)
        ]
        write_text(paths.metrics_log, "".join(f"{json.dumps(line)}\n" for line in lines))
        state = {"status": status, "step": steps, "num_steps": num_steps, "epsilon": spent[-1] if spent else None}
        write_json(paths.state, {**state, "target_epsilon": config["target_epsilon"], "updated": BEGUN + steps})
        for checkpoint in paths.checkpoints.glob("step-*.pt"):
            checkpoint.unlink()
        if status != "finished":
            write_text(make_folder(paths.checkpoints) / f"step-{steps:08d}-0123456789abcdef.pt", "")
        statement = {
            "mechanism": "DP-SGD with Poisson sampling" if private else "none",
            "unit": self.study.privacy.unit,
            "neighbouring_relation": "zero out one patient",
            "num_units": 300,
            "epsilon": spent[-1] if spent else None,
            "delta": 1e-5 if private else None,
            "noise_multiplier": config["noise_multiplier"],
            "sample_rate": 0.1,
            "num_steps": steps,
            "max_grad_norm": 1.5,
            "accountant": "pld",
            "complete": status == "finished",
            "other_releases": [{"what": "number of units", "source": "exact count", "accounted": "taken as public"}],
            "paragraph": f"This model was trained {'with' if private else 'without'} differential privacy.",
        }
        write_json(paths.privacy, statement)
        return paths

    def evaluate(
        self, cell: Cell, *, change: Callable[[pd.DataFrame], pd.DataFrame] = lambda frame: frame, draws: int = 20
    ) -> RunPaths:
        """What an evaluation writes: `change` may alter each test domain's images first."""
        paths = self.study.paths.run(self.study.run_id(cell))
        labels = self.study.study.labels
        thresholds = {label: Threshold(0.5, f"val of {cell.domain}", 50, 25) for label in labels}
        measured = []
        for domain in self.study.test_domains:
            frame = change(images_of(domain, signal=signal(cell, domain), labels=labels))
            weights = patient_draws(frame["patient_key"].to_numpy(), draws=draws, seed=0, domain=domain)
            settings = {"test_domain": domain, "thresholds": thresholds, "minimum": 10, "confidence": 0.95}
            measured.append(measure_domain(frame, weights=weights, **settings))
            make_folder(paths.predictions(domain).parent)
            write_stamped(paths.predictions(domain), long_form(frame, labels), {ALONE: True})
        pd.concat([m.draws for m in measured]).to_parquet(paths.draws, index=False)
        with atomic_path(paths.metrics) as temporary:  # as the evaluation does: a sync may read it at this moment
            pd.concat([m.table for m in measured]).to_parquet(temporary, index=False)
        return paths

    def all(self, **options: Any) -> "FakeRuns":
        """Every model of the study, trained and evaluated; with a public domain the one before them, too."""
        for cell in self.study.tested_models():
            self.train(cell)
            self.evaluate(cell, **options)
        return self


def hundred_runs(folder: Path, *, epsilons: str) -> FakeRuns:
    """A hundred finished runs, of five target epsilons, with as many metrics as are sent; all have the same numbers."""
    names = [f"hospital_{number:02d}" for number in range(20)]  # so many test domains fill all metric keys
    domains = "".join(f'[domains.{name}]\nroot = "raw"\nkind = "vindr"\n' for name in names)
    write_text(folder / "study.toml", f'[study]\nname = "hundred"\n[privacy]\ntarget_epsilons = {epsilons}\n{domains}')
    made = FakeRuns(load_study(folder))
    first: Path | None = None
    for cell in made.study.cells():
        paths = made.train(cell)
        first = first or made.evaluate(cell).metrics
        if paths.metrics != first:
            shutil.copy(first, paths.metrics)
    return made


def signal(cell: Cell, test_domain: str) -> float:
    """How much better than chance a fake model is: less with more privacy and elsewhere."""
    return (1.5 if test_domain == cell.domain else 1.0) * (1 - 0.4 / (1 + min(cell.target_epsilon, 50)))


def images_of(domain: str, *, signal: float, n: int = 240, labels: Sequence[str] = LABELS) -> pd.DataFrame:
    """One domain's test images, the same for all models except for the scores."""
    rng = np.random.default_rng(list(domain.encode()))
    frame = pd.DataFrame(
        {
            "image_id": [f"{domain}-SECRETIMAGE-{number:04d}" for number in range(n)],
            "patient_key": [f"SECRETPATIENT{number // 2:04d}" for number in range(n)],
            "sex": rng.choice(["female", "male"], n),
            "age_group": rng.choice(["age_0_40", "age_40_70", "age_70_100"], n),
        }
    )
    for label in labels:
        target = rng.integers(0, 2, n).astype(float)
        frame[f"target_{label}"] = target
        frame[f"score_{label}"] = (rng.normal(size=n) + signal * target).astype(np.float32)
    return frame


def long_form(frame: pd.DataFrame, labels: Sequence[str] = LABELS) -> pd.DataFrame:
    """Predictions as they are stored: one row an image and label."""
    images = frame[["image_id", "patient_key", "sex", "age_group"]]
    parts = [
        images.assign(
            label=label,
            target=frame[f"target_{label}"].astype("Float64").astype("Int8"),
            score=frame[f"score_{label}"],
        )
        for label in labels
    ]
    return pd.concat(parts, ignore_index=True)


@pytest.fixture
def fake_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., FakeRuns]:
    """Make a study file; its runs are then made one by one or all at once."""

    monkeypatch.setattr("dpdt.report.canvas.DPI", 40)  # most of a report's time goes into pixels

    def make(
        domains: Sequence[str] = FIVE,
        epsilons: str = "[1.0, 8.0, inf]",
        *,
        name: str = "a study",
        more: str = "",
        public: bool = False,
        labels: Sequence[str] = LABELS,
    ) -> FakeRuns:
        roots = "".join(f'[domains.{domain}]\nroot = "raw/{domain}"\nkind = "vindr"\n' for domain in domains)
        roots += '[domains.mimic]\nroot = "raw/mimic"\n' if public else ""
        own = "" if labels == LABELS else f"labels = {json.dumps(list(labels))}\n"
        text = f'[study]\nname = "{name}"\n{own}[privacy]\ntarget_epsilons = {epsilons}\n{more}\n{roots}'
        write_text(tmp_path / "study.toml", text)
        return FakeRuns(load_study(tmp_path))

    return make


@pytest.fixture
def quick_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """The figures that every report has are not drawn: that takes most of a report's time."""
    stub = Drawing({"svg": b"<svg></svg>"})
    for name in ("heat_map", "epsilon_figure", "subgroup_figure"):
        monkeypatch.setattr(figures, name, lambda *_, **__: stub)
