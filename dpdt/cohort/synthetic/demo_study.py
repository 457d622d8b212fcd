"""The study file of the demo, and its six synthetic hospitals."""

from pathlib import Path
from typing import Final

from dpdt.base.files import make_folder, write_text
from dpdt.study import Study, load_study

__all__ = [
    "DEMO_STUDY",
]

DEMO_STUDY: Final = """\
# The demo's study: six synthetic hospitals, small images and a small network, so that it runs on a laptop.
# For real data, see examples/ and the README.

[study]
name = "dpdt demo (synthetic)"

[domains.vindr]
root = "raw/vindr"
[domains.chestxray14]
root = "raw/chestxray14"
[domains.chexpert]
root = "raw/chexpert"
[domains.uka]
root = "raw/uka"
[domains.padchest]
root = "raw/padchest"
[domains.mimic]             # public: every training starts from weights trained on it, without DP
root = "raw/mimic"

[shards]
size = 64                   # the paper has 512
shard_bytes = 2_000_000     # small, so that there is more than one a domain

[model]
width = 16                  # channels of the first stage; the paper has 64

[pretrain]
num_epochs = 12
expected_batch_size = 64
learning_rate = 1e-3

[train]
num_epochs = 12
expected_batch_size = 64
physical_batch_size = 64
learning_rate = 1e-3

[privacy]
target_epsilons = [1.0, 8.0, inf]   # inf: the arm without DP; 0, the model before all, comes by itself
unit = "patient"
delta = 1e-4                # below 1 / patients of every domain
max_grad_norm = 1.5

[evaluate]
bootstrap_draws = 200
"""


def make_demo_study(folder: Path, *, patients: int | None = None) -> Study:
    """Write the study file (an existing one is kept) and the hospitals' raw data; `patients` as for `run_demo`."""
    from dpdt.cohort.synthetic import make_hospitals

    make_folder(folder)
    file = folder / "study.toml"
    if not file.exists():
        write_text(file, _demo_study(patients))
    study = load_study(file)
    make_hospitals(folder / "raw", seed=study.study.seed, patients=patients)
    return study


def _demo_study(patients: int | None) -> str:
    """The study's text, with batches that fit into the train split of few patients."""
    batch = "expected_batch_size = 64"
    if patients is None or patients >= 4 * 64:
        return DEMO_STUDY
    return DEMO_STUDY.replace(batch, f"expected_batch_size = {max(1, patients // 4)}")
