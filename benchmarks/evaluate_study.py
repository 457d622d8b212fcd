"""Evaluation and report of a whole study, all but the network: `make bench-evaluate-study`.

15 models (5 domains, no DP and two epsilons) are tested on 5 domains with 591,682 test images together, as
if all images of the paper's five domains were tested (`--images paper`: the paper's own test sets, 119,785). The scores
are invented; everything else is `dpdt evaluate`, two processes of one core each, and `dpdt report`. Prints a table and
writes build/bench/evaluate_study.json.
"""

import argparse
import json
import multiprocessing
import os
import resource
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dpdt.base.console import show_table
from dpdt.base.files import make_folder, write_json
from dpdt.base.vocabulary import LABELS, age_group, as_name
from dpdt.cohort.table import COLUMNS
from dpdt.evaluation import evaluate
from dpdt.evaluation.predict import PREDICTION_COLUMNS, Predict
from dpdt.report.write import write_report
from dpdt.study import Study, load_study
from dpdt.study.findings import findings_of

PAPER = {"vindr": 3_000, "chestxray14": 25_596, "chexpert": 29_320, "uka": 39_824, "padchest": 22_045}
ALL = {"vindr": 18_000, "chestxray14": 112_120, "chexpert": 157_676, "uka": 193_361, "padchest": 110_525}
VAL_IMAGES = 2_000
PREVALENCE = dict(zip(LABELS, (0.04, 0.18, 0.02, 0.13, 0.39), strict=True))
RESULT = Path("build/bench/evaluate_study.json")


def make_study(folder: Path, images: dict[str, int], labels: Sequence[str] = LABELS) -> Study:
    """A study whose trainings are finished, as far as an evaluation looks at them."""
    shutil.rmtree(folder, ignore_errors=True)
    make_folder(folder)
    domains = "".join(f'[domains.{name}]\nroot = "raw"\n' for name in images)
    head = f"[study]\nlabels = {json.dumps(list(labels))}\n"
    (folder / "study.toml").write_text(f"{head}{domains}[privacy]\ntarget_epsilons = [inf, 8.0, 1.0]\n")
    study = load_study(folder / "study.toml")
    for domain, count in images.items():
        frame = cohort(domain, count, labels)
        make_folder(study.paths.cohort_table(domain).parent)
        frame.to_parquet(study.paths.cohort_table(domain), index=False)
        study.paths.cohort_exclusions(domain).write_text("reason\n")
        record = {"fingerprint": study.cohort_fingerprint(domain), "split_sha256": "5" * 64, "synthetic": True}
        write_json(study.paths.cohort_record(domain), record)
    for cell in study.cells():
        paths = study.paths.run(study.run_id(cell))
        make_folder(paths.checkpoints)
        paths.weights.write_text(paths.run_id)
        epsilon = cell.target_epsilon if cell.private else None
        config = {"run_id": paths.run_id, "kind": "train", "domain": cell.domain, "target_epsilon": epsilon}
        write_json(paths.config, {**config, "data": {"split_sha256": "5" * 64}, "seed": cell.seed})
        write_json(paths.state, {"status": "finished", "step": 1, "num_steps": 1})
    return study


def cohort(domain: str, tested: int, labels: Sequence[str]) -> pd.DataFrame:
    """Test images, three a patient on average, and some of val."""
    rng = np.random.default_rng(0)
    count = tested + VAL_IMAGES
    patients = np.sort(rng.integers(0, tested // 3, tested))
    frame = pd.DataFrame(
        {
            "image_id": [f"{domain}-{number}" for number in range(count)],
            "path": "a.png",
            "domain": domain,
            "patient_id": [f"p{number}" for number in [*patients, *range(count, count + VAL_IMAGES)]],
            "study_id": "",
            "view": "PA",
            "sex": rng.choice(["female", "male"], count),
            "age_years": rng.integers(5, 95, count).astype(float),
            "split": ["test"] * tested + ["val"] * VAL_IMAGES,
        }
    )
    for label in labels:
        frame[label] = pd.array(rng.random(count) < PREVALENCE.get(label, 0.05), dtype="Int8")
    return frame[[*COLUMNS, *labels]]


@contextmanager
def invented(
    study: Study, paths: Any, splits: Sequence[tuple[str, str]], *, weights: Path | None = None
) -> Iterator[Predict]:
    """In the place of the network: scores in single precision that know a little about the label."""
    rng = np.random.default_rng(list(paths.run_id.encode()))

    def predict(domain: str, split: str) -> pd.DataFrame:
        frame = pd.read_parquet(study.paths.cohort_table(domain))
        frame = frame[frame["split"] == split]
        images = pd.DataFrame({name: frame[name].to_numpy() for name in ("image_id", "sex")})
        images["patient_key"] = frame["patient_id"].to_numpy()
        images["age_group"] = [age_group(age) for age in frame["age_years"]]
        parts = []
        for label in study.study.labels:
            target = frame[label].reset_index(drop=True)
            logit = rng.normal(size=len(frame)) + target.to_numpy(dtype=float)
            parts.append(images.assign(label=label, target=target, score=(1 / (1 + np.exp(-logit))).astype("f4")))
        return pd.concat(parts, ignore_index=True)[list(PREDICTION_COLUMNS)]

    yield predict


def evaluate_one(job: tuple[str, str]) -> tuple[float, float]:
    """Seconds of one model, and the process's peak memory so far in GiB."""
    file, run_id = job
    evaluate.predictor = invented  # type: ignore[assignment]
    started = time.perf_counter()
    evaluate.evaluate_run(load_study(Path(file)), run_id)
    return time.perf_counter() - started, peak_gib()


def peak_gib() -> float:
    """Of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def report_peak(file: str) -> float:
    """Write the report; the process's peak memory in GiB."""
    write_report(load_study(Path(file)))
    return peak_gib()


def main() -> None:
    """Run, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", choices=["all", "paper"], default="all")
    parser.add_argument("--labels", type=int, default=len(LABELS), help="so many of VinDr's findings, if not five")
    parser.add_argument("--models", type=int, default=15, help="only so many, for a short look")
    arguments = parser.parse_args()
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = "1"
    images = ALL if arguments.images == "all" else PAPER
    others = tuple(as_name(finding) for finding in findings_of("vindr"))[: arguments.labels]
    labels = LABELS if arguments.labels == len(LABELS) else others
    study = make_study(RESULT.parent / "evaluate-study", images, labels)
    runs = [study.run_id(cell) for cell in study.cells()][: arguments.models]
    context = multiprocessing.get_context("spawn")
    started = time.perf_counter()
    with context.Pool(2, maxtasksperchild=1) as pool:  # a process a model, as the stage's tasks are
        found = pool.map(evaluate_one, [(str(study.file), run) for run in runs], chunksize=1)
    evaluated = time.perf_counter() - started
    with context.Pool(1) as pool:
        report_gib = pool.apply(report_peak, [str(study.file)])
    reported = time.perf_counter() - started - evaluated
    case = f"{len(runs)} models x 5 domains, {sum(images.values()):,} test images, {len(labels)} labels"
    rows = [
        {
            "case": case,
            "method": "evaluate, two processes",
            "ms": 1000 * evaluated,
            "gib": 2 * max(g for _, g in found),
        },
        {"case": case, "method": "report, one process", "ms": 1000 * reported, "gib": report_gib},
    ]
    RESULT.write_text(json.dumps(rows, indent=2) + "\n")
    cells = [[r["case"], r["method"], f"{r['ms'] / 1000:.0f}", f"{r['gib']:.2f}"] for r in rows]
    show_table("A whole study", ["case", "method", "s", "peak GiB, of all processes together"], cells)


if __name__ == "__main__":
    main()
