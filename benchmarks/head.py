"""Benchmark of a head on features: `make bench-head` prints a table and writes build/bench/head.json.

10,000 made-up images whose frozen network gives as many features as a ViT-S or a ViT-B; the head is trained with DP at
epsilon 1 with dpdt's defaults (batch 128, 80 epochs), each image a unit, and in closed form on ten times as many. All
of a training is in the time: its ledger, checkpoints and statement, the calibration of the noise; the features are
timed apart.
"""

import json
import tempfile
import time
from pathlib import Path

import torch

from dpdt.base.console import show_table
from dpdt.shards.dataset import load_split
from dpdt.study import Cell, Study, load_study
from dpdt.training.features import Features, split_features
from dpdt.training.start import initial_model
from dpdt.training.train import TrainingRun, train
from tests.small_data import SIZE, write_domain

RESULT = Path("build/bench/head.json")
PATIENTS = 7_500  # of five patients four are in train, with 1, 2 and 2 images
WIDTHS = {"ViT-S": 384, "ViT-B": 768}
CELL = Cell("uka", 1.0, 0)
STUDY = """
[domains.uka]
root = "raw"
[shards]
size = {size}
[model]
name = "made_up_{width}:network"
options = {{ width = {width} }}
init_weights = "made_up.pt"
[train]
parameters = "head"
device = "cpu"
[privacy]
unit = "image"
target_epsilons = [1.0]
delta = 1e-6
"""
NETWORK = """
from torch import nn

def network(*, num_outputs, in_channels, width):
    return nn.Sequential(nn.Flatten(), nn.Linear({pixels}, width), nn.Tanh(), nn.Linear(width, num_outputs))
"""


def made_up(folder: Path, width: int, *, patients: int, closed_form: bool) -> Study:
    """A study with its data."""
    torch.manual_seed(0)
    (folder / "study.toml").write_text(STUDY.format(size=SIZE, width=width))
    (folder / f"made_up_{width}.py").write_text(NETWORK.format(pixels=SIZE * SIZE))
    layers = {"1": torch.nn.Linear(SIZE * SIZE, width), "3": torch.nn.Linear(width, 5)}
    torch.save(torch.nn.ModuleDict(layers).state_dict(), folder / "made_up.pt")
    study = load_study(folder, overrides=["train.optimizer=closed-form"] if closed_form else [])
    write_domain(study, "uka", patients=patients)
    return study


def measure(name: str, width: int, *, patients: int = PATIENTS, closed_form: bool = False) -> dict[str, str | float]:
    """One training."""
    with tempfile.TemporaryDirectory() as folder:
        study = made_up(Path(folder), width, patients=patients, closed_form=closed_form)
        data = load_split(study, "uka", "train")
        model, _ = initial_model(TrainingRun.of(study, study.run_id(CELL)), data)
        begun = time.perf_counter()
        split_features(study, Features(model, autocast=False, images_at_once=32), data)
        features_s = time.perf_counter() - begun
        summary = train(study, CELL)
        case = f"{name}, {len(data):,} images × {width} features, {summary.num_steps:,} steps"
        return {
            "case": case,
            "method": "closed form" if closed_form else "bookkeeping",
            "ms": 1e3 * summary.seconds,
            "features_ms": 1e3 * features_s,
        }


def main() -> None:
    """Print and write."""
    rows = [measure(name, width) for name, width in WIDTHS.items()]
    rows.append(measure("ViT-B", WIDTHS["ViT-B"], patients=10 * PATIENTS, closed_form=True))
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(rows, indent=2) + "\n")
    table = [[str(row["case"]), str(row["method"]), f"{float(row['ms']) / 1e3:.1f}"] for row in rows]
    show_table("A head on features", ["training", "method", "s"], table)


if __name__ == "__main__":
    main()
