"""Stand-ins for the stages, so that tests of submission are about submission and take no time.

Python imports a `sitecustomize` on its path at the start, so a job with this folder in PYTHONPATH finds the stand-ins
instead of dpdt.cohort.stage, dpdt.shards.stage and so on. `behave.json` in the study's folder says what shall happen:
`{"seconds": 0.1, "long": ["cohort-b"], "fail": ["shards-b"], "kill": ["train-…"], "stop": ["train-…"]}`, or
`{"starts": 2}`: no task ends before two have started. `calls.jsonl` says what did happen.
"""

import json
import os
import signal
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType
from typing import Any


def work(study: Any, name: str, result: Path) -> str:
    """Take a while, fail if told to, and write a result."""
    behave = study.folder / "behave.json"
    told = json.loads(behave.read_text()) if behave.exists() else {}
    note(study, name, "start")
    try:
        time.sleep(60 if name in told.get("long", ()) else told.get("seconds", 0.0))
        wait_for_starts(study, told.get("starts", 0))
        if name in told.get("fail", ()):
            raise RuntimeError(f"{name} was told to fail")
        if name in told.get("kill", ()):
            os.kill(os.getpid(), signal.SIGKILL)
        if name in told.get("stop", ()):
            return f"{name} stopped early"
        result.parent.mkdir(parents=True, exist_ok=True)
        result.write_text('{"status": "finished", "step": 3, "num_steps": 3, "epsilon": null, "target_epsilon": null}')
    finally:
        note(study, name, "end")
    return f"made {name}"


def wait_for_starts(study: Any, number: int) -> None:
    """Wait until so many tasks have started."""
    last = time.monotonic() + 30
    while (study.folder / "calls.jsonl").read_text().count('"start"') < number and time.monotonic() < last:
        time.sleep(0.02)


def note(study: Any, name: str, what: str) -> None:
    """Append what happened."""
    row = {
        "task": name,
        "what": what,
        "time": time.time(),
        "pid": os.getpid(),
        "threads": [study.shards.num_threads, study.train.num_threads],
        "env": {key: os.environ.get(key) for key in ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "SLURM_CONF")},
        "heavy": sorted({"torch", "mlflow"} & set(sys.modules)),
    }
    with (study.folder / "calls.jsonl").open("a") as stream:
        stream.write(json.dumps(row) + "\n")


def cohort_file(study: Any, domain: str) -> Path:
    return study.paths.cohort_record(domain)


def shards_file(study: Any, domain: str) -> Path:
    return study.paths.shards(domain).manifest


def state_file(study: Any, run_id: str) -> Path:
    return study.paths.run(run_id).state


def metrics_file(study: Any, run_id: str) -> Path:
    return study.paths.run(run_id).metrics


def run_training(study: Any, run_id: str, *, on_epoch_end: object = None) -> str:
    stage = "pretrain" if run_id == study.pretrain_run_id else "train"
    return work(study, f"{stage}-{run_id}", state_file(study, run_id))


FAKES = {
    "cohort.stage": {
        "run": lambda study, domain: work(study, f"cohort-{domain}", cohort_file(study, domain)),
        "done": lambda study, domain: cohort_file(study, domain).exists(),
    },
    "cohort.table": {"cohort_done": lambda study, domain: False, "changed_inputs": lambda study, domain: []},
    "jobs.checks": {
        "check_deltas": lambda study, domains: None,
        "check_groups": lambda study, domains: None,
        "warn_of_changed_lists": lambda study: None,
        "warn_of_shared_patients": lambda study: None,
    },
    "shards.stage": {
        "run": lambda study, domain, **_: work(study, f"shards-{domain}", shards_file(study, domain)),
        "done": lambda study, domain: shards_file(study, domain).exists(),
    },
    "training.stage": {"run": run_training, "done": lambda study, run_id: state_file(study, run_id).exists()},
    "evaluation.stage": {
        "run": lambda study, run_id: work(study, f"evaluate-{run_id}", metrics_file(study, run_id)),
        "done": lambda study, run_id: metrics_file(study, run_id).exists(),
    },
    "report.write": {"write_report": lambda study: work(study, "report", study.paths.report / "index.html")},
    "tracking.sync": {"sync": lambda study: work(study, "track", study.paths.mlflow_database)},
    "tracking.live": {"live_sync": lambda study: nullcontext()},
    "tracking.system_metrics": {"system_samples": lambda study, run_id: nullcontext()},
}


def modules() -> dict[str, ModuleType]:
    """The stand-ins by the name of the module that they replace."""
    found = {}
    for name, functions in FAKES.items():
        module = ModuleType(f"dpdt.{name}")
        module.__dict__.update(functions)
        found[f"dpdt.{name}"] = module
    return found


sys.modules.update(modules())
