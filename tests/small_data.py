"""A study with hand-made cohorts and shards, small enough to train on in a second."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from dpdt.base.files import make_folder, read_json, sha256_file, write_json
from dpdt.base.vocabulary import LABELS
from dpdt.cohort.table import COLUMNS, images_sha256
from dpdt.study import Study, load_study
from dpdt.study.paths import RunPaths
from dpdt.training.stop import StopFlag

MakeStudy = Callable[..., Study]

SIZE = 16
PATIENTS = 40

STUDY = """
[study]
folder = "out"
[domains.uka]
root = "raw/uka"
[domains.mimic]
root = "raw/mimic"
[shards]
size = 16
[model]
width = 8
[pretrain]
num_epochs = 2
expected_batch_size = 8
[train]
num_epochs = 5
expected_batch_size = 8
physical_batch_size = 5
learning_rate = 1e-3
num_threads = 1
device = "cpu"
[privacy]
target_epsilons = [8.0, inf]
delta = 1e-3
reserve_steps = 4
"""


class StopAfter(StopFlag):
    """Asks to stop once it has been looked at so many times."""

    def __init__(self, looks: int) -> None:
        self.looks = looks
        super().__init__()

    @property
    def requested(self) -> bool:
        self.looks -= 1
        return self.looks < 0

    @requested.setter
    def requested(self, value: bool) -> None:
        pass


def statement(paths: RunPaths) -> dict[str, Any]:
    """A run's privacy statement without the time at which the study's runs were counted."""
    found: dict[str, Any] = read_json(paths.privacy)
    if found["selection"] is not None:
        del found["selection"]["as_of"]
    return found


@pytest.fixture
def make_study(tmp_path: Path) -> MakeStudy:
    """Write a study and, where it is not there yet, its data; pairs of text replace parts of the study file."""

    def make(*changes: tuple[str, str], patients: int = PATIENTS) -> Study:
        file = tmp_path / "study.toml"
        text = STUDY
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        file.write_text(text)
        study = load_study(file)
        for domain in study.domains:
            if not study.paths.cohort_table(domain).exists():
                write_domain(study, domain, patients=patients)
        return study

    return make


def write_domain(study: Study, domain: str, *, patients: int) -> None:
    """A domain of patients with one to three images each; four in five are in train, the others in test."""
    random = np.random.default_rng(len(domain))
    numbers = np.repeat(np.arange(patients), 1 + np.arange(patients) % 3)
    labels = random.integers(0, 2, size=(len(numbers), len(LABELS)))
    frame = pd.DataFrame(
        {
            "image_id": [f"{domain}-{k:04d}" for k in range(len(numbers))],
            "path": [f"{k}.png" for k in range(len(numbers))],
            "domain": domain,
            "patient_id": [f"p{number}" for number in numbers],
            "study_id": [f"s{k}" for k in range(len(numbers))],  # each image its own, so that patients are not studies
            "view": "frontal",
            "sex": "female",
            "age_years": 50.0,
            "split": np.where(numbers % 5 == 4, "test", "train"),
        }
    )
    for column, label in enumerate(LABELS):
        frame[label] = pd.array(labels[:, column], dtype="Int8")
    frame.loc[0, "pneumonia"] = pd.NA
    table = study.paths.cohort_table(domain)
    make_folder(table.parent)
    frame[[*COLUMNS, *LABELS]].to_parquet(table, index=False)
    split = hashlib.sha256(domain.encode()).hexdigest()
    record = {"fingerprint": study.cohort_fingerprint(domain), "split_sha256": split, "synthetic": True}
    study.paths.cohort_exclusions(domain).write_text("reason\n")
    write_json(study.paths.cohort_record(domain), record)
    write_shards(study, domain, frame, labels)


def write_shards(study: Study, domain: str, frame: pd.DataFrame, labels: np.ndarray) -> None:
    """Two shards of noise on which each label brightens a stripe; the third image of a patient was rejected."""
    random = np.random.default_rng(7)
    pixels = random.integers(0, 100, size=(len(frame), SIZE, SIZE), dtype=np.uint8)
    for column in range(len(LABELS)):
        pixels[:, 3 * column : 3 * column + 3] += (100 * labels[:, column]).astype(np.uint8)[:, None, None]
    kept = np.flatnonzero(frame.groupby("patient_id").cumcount() < 2)
    paths = study.paths.shards(domain)
    make_folder(paths.folder)
    half = len(kept) // 2
    places, shards = [], []
    for number, rows in enumerate((kept[:half], kept[half:])):
        np.save(paths.shard(number), pixels[rows])
        file = paths.shard(number)
        shards.append({"file": file.name, "rows": len(rows), "sha256": sha256_file(file)})
        places += [(frame["image_id"][row], number, place, "0" * 64) for place, row in enumerate(rows)]
    index = pd.DataFrame(places, columns=["image_id", "shard", "row", "sha256"])
    index.to_parquet(paths.index, index=False)
    manifest = {
        "format": 1,
        "domain": domain,
        "fingerprint": study.shards_fingerprint(domain),
        "cohort_sha256": images_sha256(frame),
        "codecs": {},
        "settings": {"size": SIZE},
        "images": len(index),
        "rejected": len(frame) - len(kept),
        "synthetic": True,
        "index": {"file": paths.index.name, "sha256": sha256_file(paths.index)},
        "shards": shards,
    }
    write_json(paths.manifest, manifest)
