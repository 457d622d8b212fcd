"""Hospitals that do not pool, rehearsed: each has a study of its own in a folder that the others cannot read.

Only model bundles and results files are carried from one to the other. `make demo-apart` does it with the five made-up
hospitals, and ends with the matrix and the bytes that left each of them.

Where this is root, each hospital's commands run without root's powers and in a group of its own, and only that group
may enter its folder. (A user of its own would do the same, but could not reach a Python that lies in root's home.)
Otherwise the folders are apart by name alone.
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from dpdt.base.console import show_table
from dpdt.cohort.synthetic import make_hospitals
from dpdt.report.apart.combine import combine, combined_auc
from dpdt.report.apart.file import read_results
from dpdt.study import arm_name

FIVE: Final = ("vindr", "chestxray14", "chexpert", "uka", "padchest")
KEEPER: Final = 64_099
"""Owns the folders, and is nobody: so who enters one does so by its group."""
FIRST_GROUP: Final = 64_100
AT_ONCE: Final = 2
"""Hospitals that work at the same time, with a thread each."""
STUDY: Final = """\
[study]
name = "{name} (synthetic)"
[domains.{name}]
root = "raw/{name}"
[shards]
size = {size}
[model]
width = {width}
[train]
num_epochs = {epochs}
expected_batch_size = {batch}
physical_batch_size = 32
num_threads = 1
learning_rate = 1e-3
device = "cpu"
[privacy]
target_epsilons = [8.0, inf]
delta = 1e-3
[evaluate]
bootstrap_draws = 200
"""
EXPORT: Final = ("--licence", "for this rehearsal", "--intended-use", "none: made-up images", "--without-privacy")


@dataclass
class Hospital:
    """One hospital: its folder, its group, and what left it."""

    name: str
    folder: Path
    group: int | None
    left: dict[str, int] = field(default_factory=dict)

    def run(self, *arguments: str) -> str:
        """A command of dpdt, as this hospital and in its folder."""
        return self.shell(sys.executable, "-m", "dpdt", *arguments)

    def shell(self, *command: str) -> str:
        """Any command, as this hospital and in its folder.

        Raises:
            RuntimeError: It failed.
        """
        group = [f"--regid={self.group}", "--clear-groups", "--bounding-set=-all", "--inh-caps=-all"]
        apart = [] if self.group is None else ["setpriv", *group]
        home = {"HOME": str(self.folder), "USER": self.name, "LOGNAME": self.name, "MPLCONFIGDIR": str(self.folder)}
        environment = {**os.environ, **home, "PYTHONPATH": os.getcwd(), "DPDT_QUIET": "1", "OMP_NUM_THREADS": "1"}
        done = subprocess.run([*apart, *command], cwd=self.folder, capture_output=True, text=True, env=environment)
        if done.returncode:
            raise RuntimeError(f"{self.name}: {' '.join(command)}\n{done.stdout}{done.stderr}")
        return done.stdout

    def close(self) -> None:
        """Nobody but this hospital may enter its folder."""
        if self.group is not None:
            os.chown(self.folder, KEEPER, self.group)
            self.folder.chmod(0o770)


def rehearse(
    folder: Path,
    names: Sequence[str] = FIVE,
    *,
    patients: int = 300,
    study: str = STUDY,
    key: str | None = None,
    **sizes: int,
) -> list[Hospital]:
    """Train at each hospital, carry the models, test them everywhere, carry the results, put them together.

    Args:
        folder: Where it all happens; empty.
        names: Of made-up hospitals.
        patients: Of each.
        study: Text of each hospital's study file.
        key: Of their hashes; each has its own by default.
        **sizes: Of STUDY.

    Returns:
        The hospitals; `folder / "together"` has the results and the report.
    """
    sizes = {"size": 64, "width": 16, "epochs": 6, "batch": 32, **sizes}
    root = os.geteuid() == 0 and shutil.which("setpriv") is not None
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o711)
    hospitals = [Hospital(name, folder / name, FIRST_GROUP + n if root else None) for n, name in enumerate(names)]
    for hospital in hospitals:
        make_hospitals(hospital.folder / "raw", patients=patients, domains=[hospital.name])
        (hospital.folder / "study.toml").write_text(study.format(name=hospital.name, **sizes))
        for name in ("in", "out", "cohort"):
            (hospital.folder / name).mkdir(exist_ok=True)
        if key is not None:
            (hospital.folder / "cohort" / "data.key").write_text(key)
        hospital.close()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(_train, hospitals))
    bundles = {(h.name, file.stem): file for h in hospitals for file in sorted((h.folder / "out").glob("*.dpdt"))}
    others = [{key: file for key, file in bundles.items() if key[0] != hospital.name} for hospital in hospitals]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(_test_the_others, hospitals, others))
    together = folder / "together"
    together.mkdir(exist_ok=True)
    for hospital in hospitals:
        shutil.copy(hospital.folder / "out" / "results.json", together / f"{hospital.name}.json")
        hospital.left = {file.name: file.stat().st_size for file in sorted((hospital.folder / "out").iterdir())}
    combine([read_results(file) for file in sorted(together.glob("*.json"))], together / "report")
    return hospitals


def _train(hospital: Hospital) -> None:
    """All that the one who trains does: two models, and a bundle of each."""
    for stage in ("cohort", "shards", "train", "evaluate"):
        hospital.run(stage, "study.toml")
    for run in sorted((hospital.folder / "runs").glob(f"{hospital.name}-*")):
        arm = "inf" if "-epsinf-" in run.name else "8"
        hospital.run("export", str(run), "--output", f"out/{hospital.name}_{arm}.dpdt", *EXPORT)


def _test_the_others(hospital: Hospital, bundles: dict[tuple[str, str], Path]) -> None:
    """All that the one who tests does: look at a bundle, test all, and write the results."""
    tables = []
    for (_, name), file in bundles.items():
        shutil.copy(file, hospital.folder / "in")
        tables.append(f'[models.{name}]\nbundle = "in/{file.name}"\n')
    with (hospital.folder / "study.toml").open("a") as stream:
        stream.write("".join(tables))
    hospital.run("card", f"in/{next(iter(bundles.values())).name}")
    hospital.run("evaluate", "study.toml")
    hospital.run("results", "export", "study.toml", "--output", "out/results.json")


def _show(folder: Path, hospitals: list[Hospital]) -> None:
    frame = combined_auc([read_results(file) for file in sorted((folder / "together").glob("*.json"))])
    frame = frame[(frame["label"] == "average") & (frame["subgroup"] == "all")]
    for epsilon, part in frame.groupby("target_epsilon"):
        cells = {(row.train_domain, row.test_domain): row for row in part.itertuples()}
        rows = [
            [
                h.name,
                *(
                    f"{c.auc:.3f} ({c.ci_low:.2f}–{c.ci_high:.2f})" if (c := cells.get((h.name, t.name))) else "–"
                    for t in hospitals
                ),
            ]
            for h in hospitals
        ]
        show_table(
            f"Macro AUC by test hospital, {arm_name(float(str(epsilon)))}",
            ["trained at", *(h.name for h in hospitals)],
            rows,
        )
    show_table(
        "Bytes that left each hospital",
        ["hospital", "files", "bytes", "its own folder"],
        [
            [h.name, ", ".join(f"{n} {b:,}" for n, b in h.left.items()), sum(h.left.values()), _size(h.folder)]
            for h in hospitals
        ],
    )
    print("All images are synthetic: these numbers say nothing about real radiographs.")
    print(f"Report: {folder / 'together' / 'report' / 'index.html'}")


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--patients", type=int, default=300)
    options = parser.parse_args()
    begun = time.monotonic()
    shutil.rmtree(options.folder, ignore_errors=True)
    found = rehearse(options.folder.resolve(), patients=options.patients)
    _show(options.folder, found)
    apart = "all as one user (not root)" if found[0].group is None else "each in a group of its own"
    print(f"{len(found)} hospitals, {apart}, in {time.monotonic() - begun:.0f} s")
