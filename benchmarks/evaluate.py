"""Benchmark of the evaluation: `make bench-evaluate` prints a table and writes build/bench/evaluate.json.

The bootstrap of a test set as large as ChestX-ray14's (25,596 images, 5 labels, 1,000 draws of patients: AUC and
threshold metrics) against a loop over scikit-learn, both on one core in one run; then all metrics of one model on one
domain, subgroups, crossings and fairness included. The loop takes minutes, so a part of its draws is timed and
the time scaled to all of them; the report says how many.
"""

import json
import resource
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import confusion_matrix, roc_auc_score

from dpdt.base.console import show_table
from dpdt.base.vocabulary import LABELS
from dpdt.evaluation.metrics import Ranking, Threshold, measure_domain, over_blocks, patient_draws

IMAGES, PATIENTS, DRAWS, LOOP_DRAWS = 25_596, 2_797, 1_000, 20  # ChestX-ray14's official test list has 2,797 patients
PREVALENCE = dict(zip(LABELS, (0.04, 0.18, 0.02, 0.13, 0.39), strict=True))
STUDY_TEST_IMAGES = {"vindr": 3_000, "chestxray14": 25_596, "chexpert": 29_320, "uka": 39_824, "padchest": 22_045}
LARGE_TEST_IMAGES = 591_682 // 5  # were all images of the paper's five domains tested
RESULT = Path("build/bench/evaluate.json")


def test_set(images: int, patients: int) -> pd.DataFrame:
    """Scores in single precision, as models give them, of patients with several images."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"patient_key": np.sort(rng.integers(0, patients, images))})
    frame["sex"] = rng.choice(["female", "male"], images)
    frame["age_group"] = rng.choice(["age_0_40", "age_40_70", "age_70_100"], images, p=[0.3, 0.5, 0.2])
    for label, prevalence in PREVALENCE.items():
        target = rng.random(images) < prevalence
        frame[f"target_{label}"] = target.astype(float)
        frame[f"score_{label}"] = (1 / (1 + np.exp(-rng.normal(size=images) - target))).astype(np.float32)
    return frame


def bootstrap(frame: pd.DataFrame, draws: int) -> list[dict[str, Any]]:
    """Draws, AUC and threshold metrics of every label by dpdt's kernel."""
    weights = patient_draws(frame["patient_key"].to_numpy(), draws=draws, seed=0, domain="bench")
    rankings = [
        Ranking(frame[f"target_{label}"].to_numpy(), frame[f"score_{label}"].to_numpy(), thresholds=[0.6])
        for label in LABELS
    ]
    return over_blocks(rankings, weights)


def loop(frame: pd.DataFrame, draws: int) -> list[list[float]]:
    """The same by the usual loop over scikit-learn."""
    rng = np.random.default_rng(0)
    rows = [group.to_numpy() for _, group in pd.Series(range(len(frame))).groupby(frame["patient_key"].to_numpy())]
    found: list[list[float]] = [[] for _ in LABELS]
    columns = [(frame[f"target_{label}"].to_numpy(), frame[f"score_{label}"].to_numpy()) for label in LABELS]
    for _ in range(draws):
        drawn = np.concatenate([rows[number] for number in rng.integers(0, len(rows), len(rows))])
        for values, (target, score) in zip(found, columns, strict=True):
            y, s = target[drawn], score[drawn]
            values.append(roc_auc_score(y, s))
            confusion_matrix(y, s >= 0.6)
    return found


def timed(work: Any, repeats: int) -> float:
    """Best time in milliseconds."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return 1000 * min(times)


def main() -> None:
    """Run, print, write."""
    frame = test_set(IMAGES, PATIENTS)
    case = f"{IMAGES:,} images x {len(LABELS)} labels x {DRAWS:,} draws, AUC and threshold metrics"
    ours = timed(lambda: bootstrap(frame, DRAWS), 3)
    theirs = timed(lambda: loop(frame, LOOP_DRAWS), 1) * DRAWS / LOOP_DRAWS
    results = [
        {"case": case, "method": "dpdt, one core", "ms": ours, "speedup": theirs / ours},
        {
            "case": case,
            "method": f"loop over scikit-learn, one core ({LOOP_DRAWS} draws timed, scaled)",
            "ms": theirs,
            "speedup": 1.0,
        },
    ]
    thresholds = {label: Threshold(0.6, "val", 1000, 100) for label in LABELS}
    study_ms = 0.0
    for domain, images in {**STUDY_TEST_IMAGES, "a fifth of 591,682": LARGE_TEST_IMAGES}.items():
        of_domain = test_set(images, images // 3)

        def whole(of_domain: pd.DataFrame = of_domain) -> None:
            weights = patient_draws(of_domain["patient_key"].to_numpy(), draws=DRAWS, seed=0, domain="bench")
            settings: dict[str, Any] = {"test_domain": "bench", "minimum": 10, "confidence": 0.95}
            measure_domain(of_domain, thresholds=thresholds, weights=weights, **settings)

        ms = timed(whole, 1)
        study_ms += 15 * ms if domain in STUDY_TEST_IMAGES else 0.0
        results.append(
            {
                "case": f"{images:,} images ({domain}), all metrics, 12 subgroups, fairness, {DRAWS:,} draws",
                "method": "dpdt, one core",
                "ms": ms,
                "speedup": None,
            }
        )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    results.append(
        {
            "case": f"15 models x 5 domains, all metrics (the five domains' times x 15; peak memory {peak:.2f} GiB)",
            "method": "dpdt, one core",
            "ms": study_ms,
            "speedup": None,
        }
    )
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(results, indent=2) + "\n")
    rows = [
        [r["case"], r["method"], round(r["ms"]), "" if r["speedup"] is None else f"{r['speedup']:.0f} x"]
        for r in results
    ]
    show_table("Evaluation", ["case", "method", "ms", "speed-up"], rows)


if __name__ == "__main__":
    main()
