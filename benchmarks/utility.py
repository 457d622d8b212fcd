"""What each setting of a recipe brings at the same epsilon: `make bench-utility`, a table and build/bench/utility.json.

Synthetic hospitals, one to train at and two more to test at, public pretraining on another. Each setting alone on top
of `large batches`, which is the preset `strong`, and the likeliest together. Every training is an ordinary run of dpdt:
it can be stopped at any moment, and the next call goes on. `--short` (SHORT=1): fewer patients, one seed, epsilon 8.
Figures of synthetic images compare settings; they say nothing about real radiographs.
"""

import argparse
import json
import math
import statistics
import time
from pathlib import Path
from typing import Any, Final

import torch
from scipy import stats

from dpdt.base.console import show_table
from dpdt.base.files import write_json, write_text
from dpdt.cohort.synthetic import make_hospitals
from dpdt.evaluation import metrics
from dpdt.evaluation.evaluate import evaluate_run
from dpdt.jobs.submit import submit
from dpdt.study import BEFORE, Cell, Study, format_epsilon, load_study
from dpdt.study.keys import toml
from dpdt.study.source import PRESETS, flat
from dpdt.training.train import train

HOME, ABROAD, PUBLIC = "chexpert", ("chestxray14", "padchest"), "mimic"
RESULT = Path("build/bench/utility.json")
STUDY: Final = """\
[study]
name = "utility"
[domains.chexpert]
root = "raw/chexpert"
[domains.chestxray14]
root = "raw/chestxray14"
[domains.padchest]
root = "raw/padchest"
[domains.mimic]
root = "raw/mimic"
[shards]
size = 64
[model]
width = 16
[pretrain]
num_epochs = 12
expected_batch_size = 64
learning_rate = 1e-3
[train]
domains = ["chexpert"]
seeds = [0, 1, 2]
num_epochs = 12
expected_batch_size = 64
learning_rate = 1e-3
physical_batch_size = 64
num_threads = 1
device = "cpu"
[privacy]
target_epsilons = [1.0, 3.0, 8.0, inf]
delta = 1e-4
[evaluate]
domains = ["chexpert", "chestxray14", "padchest"]
bootstrap_draws = 0
"""
LARGE: Final = flat(PRESETS["strong"])
ALONE: Final[dict[str, dict[str, Any]]] = {
    "one rate": {"train.learning_rate": 2e-3, "train.full_learning_rate_at": 1},
    "ema": {"train.averaging": "ema"},
    "tail": {"train.averaging": "tail"},
    "cosine, warm-up": {"train.schedule": "cosine", "train.warm_up": 0.05},
    "adamw": {"train.optimizer": "adamw"},
    "adam-corrected": {"train.optimizer": "adam-corrected"},
    "sgd": {"train.optimizer": "sgd", "train.learning_rate": 0.1},
    "automatic": {"privacy.clip_factor": "automatic"},
    "quantile": {"privacy.clip_factor": "quantile"},
    "head first": {"train.head_first": 0.2},
    "layers": {"privacy.clip_scope": "layers"},
    "4 views": {"train.views": 4},
}
RECIPES: Final[dict[str, dict[str, Any]]] = {
    "as before": {},
    "large batches": LARGE,
    **{name: LARGE | keys for name, keys in ALONE.items()},
    "head alone": LARGE | {"train.parameters": "head"},
    "head in closed form": {"train.parameters": "head", "train.optimizer": "closed-form"},
    "head first, layers": LARGE | ALONE["head first"] | ALONE["layers"],
    "views, ema, cosine": LARGE | ALONE["4 views"] | ALONE["ema"] | ALONE["cosine, warm-up"],
}
FULL: Final = {"patients": 6000, "public": 1000, "epsilons": (8.0, 1.0, 3.0, math.inf), "seeds": (0, 1, 2)}
SHORT: Final = {"patients": 800, "public": 400, "epsilons": (8.0,), "seeds": (0,)}


def prepare(folder: Path, *, patients: int, public: int) -> Path:
    """The hospitals, their shards, and the public pretraining; what is there is kept."""
    counts = {HOME: patients, **dict.fromkeys(ABROAD, max(400, patients // 4)), PUBLIC: public}
    make_hospitals(folder / "raw", patients=counts, domains=counts, num_processes=1, image_size=96)
    file = folder / "study.toml"
    if not file.exists():
        write_text(file, STUDY)
    submit(load_study(file), cluster="debug", stages=["cohort", "shards", "pretrain"])
    return file


def scores(study: Study, run_id: str) -> dict[str, float]:
    """Macro AUC of a model at home, and its mean abroad."""
    import pandas as pd

    evaluate_run(study, run_id)
    macro = metrics.macro_aucs(pd.read_parquet(study.paths.run(run_id).metrics))["auc"]
    return {"home": float(macro[HOME]), "abroad": float(macro[list(ABROAD)].mean())}


def measure(file: Path, name: str, *, epsilon: float, seed: int) -> dict[str, Any]:
    """Train one cell (or find it trained), and test it."""
    overrides = [f"{key}={toml(value)}" for key, value in RECIPES[name].items()]
    study = load_study(file, overrides=overrides)
    cell = Cell(HOME, epsilon, seed)
    if train(study, cell).status != "finished":
        raise SystemExit("stopped; the next call goes on")
    paths = study.paths.run(study.run_id(cell))
    lines = [json.loads(line) for line in paths.metrics_log.read_text().splitlines()]
    steps = [line["step"] for line in lines]
    seconds = sum(
        line["step_s"] * (step - before) for line, step, before in zip(lines, steps, [0, *steps], strict=False)
    )
    spent = json.loads(paths.state.read_text())["epsilon"]
    row = {"case": name, "method": "no DP" if math.isinf(epsilon) else f"epsilon {format_epsilon(epsilon)}"}
    return row | {"seed": seed, "spent": spent, "ms": 1000 * seconds, **scores(study, paths.run_id)}


def interval(values: list[float]) -> str:
    """Mean and, of several seeds, half the width of its 95 % interval (Student's t over seeds)."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return f"{mean:.3f}"
    half = float(stats.t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))
    return f"{mean:.3f} ±{half:.3f}"


def show(rows: list[dict[str, Any]], before: dict[str, float]) -> None:
    """A line a setting and epsilon. The share is that of the gain that the arm `as before` has without DP."""
    whole = [row["home"] - before["home"] for row in rows if (row["case"], row["method"]) == ("as before", "no DP")]
    table = []
    for case, method in dict.fromkeys((row["case"], row["method"]) for row in rows):
        same = [row for row in rows if (row["case"], row["method"]) == (case, method)]
        gain = statistics.fmean(row["home"] for row in same) - before["home"]
        share = f"{gain / statistics.fmean(whole):.0%}" if whole and statistics.fmean(whole) > 0 else ""
        seconds = statistics.fmean(row["ms"] for row in same) / 1000
        means = [interval([row[place] for row in same]) for place in ("home", "abroad")]
        table.append([case, method, str(len(same)), *means, f"{gain:+.3f}", share, f"{seconds:.0f} s"])
    columns = ["setting", "arm", "seeds", "AUC at home", "AUC abroad", "gain at home", "share kept", "training"]
    show_table(f"Before: {before['home']:.3f} at home, {before['abroad']:.3f} abroad", columns, table)


def main() -> None:
    """Train what is not trained, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--patients", type=int, help="of the hospital that is trained at")
    parser.add_argument("--only", nargs="+", choices=RECIPES, metavar="SETTING", help="of the table's first column")
    parser.add_argument("--epsilons", nargs="+", type=float, help="inf: no DP")
    parser.add_argument("--seeds", nargs="+", type=int)
    arguments = parser.parse_args()
    size = SHORT if arguments.short else FULL
    torch.set_num_threads(1)
    started, patients = time.monotonic(), arguments.patients or size["patients"]
    file = prepare(Path(f"build/bench/utility-{patients}"), patients=patients, public=size["public"])
    before = scores(load_study(file), load_study(file).run_id(Cell(BEFORE, 0.0, 0)))
    cells = [
        (name, epsilon, seed)
        for seed in arguments.seeds or size["seeds"]
        for epsilon in arguments.epsilons or size["epsilons"]
        for name in arguments.only or RECIPES
    ]
    if ("as before", math.inf, cells[0][2]) not in cells and not arguments.only:
        cells.insert(0, ("as before", math.inf, cells[0][2]))  # what shares are of
    rows: list[dict[str, Any]] = []
    for name, epsilon, seed in cells:
        rows.append(measure(file, name, epsilon=epsilon, seed=seed))
        write_json(RESULT, [{"case": "before", "method": "before", "ms": 0.0, **before}, *rows])
    show(rows, before)
    print(f"{time.monotonic() - started:.0f} s, of which what was there already took none; {RESULT}")


if __name__ == "__main__":
    main()
