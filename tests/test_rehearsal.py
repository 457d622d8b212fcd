"""Hospitals apart give what hospitals that pool would have: the same AUCs, and each site's own intervals."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from dpdt.evaluation.evaluate import evaluate_run
from dpdt.report.apart.combine import combined_auc, disagreements
from dpdt.report.apart.file import read_results
from dpdt.report.tables import auc_by_run
from dpdt.study import load_study
from tests.rehearsal import STUDY, Hospital, rehearse

THREE = ("vindr", "uka", "padchest")
KEY = "ab" * 32
"""One for all, so that the pooled study may take their runs: else it would not know whether the data is the same."""
pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """Not below pytest's own, which none but root may enter."""
    made = Path(tempfile.mkdtemp(prefix="dpdt-apart-"))
    yield made
    shutil.rmtree(made)


@pytest.fixture(scope="module")
def hospitals(folder: Path) -> list[Hospital]:
    return rehearse(folder, THREE, patients=300, key=KEY, size=32, width=8, epochs=2, batch=16)


def pooled(folder: Path) -> pd.DataFrame:
    """The three hospitals in one study: their cohorts, shards and trained models, tested everywhere."""
    whole = folder / "pooled"
    for hospital in THREE:
        for part in ("cohort", "shards", "runs"):
            shutil.copytree(folder / hospital / part, whole / part, dirs_exist_ok=True)
    for run in (whole / "runs").glob("*-*"):
        if run.name.startswith("bundle-"):
            shutil.rmtree(run)
        for old in ("metrics.parquet", "draws.parquet", "predictions"):
            path = run / old
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    text = STUDY.format(name="vindr", size=32, width=8, epochs=2, batch=16)
    others = "".join(f'[domains.{name}]\nroot = "raw/{name}"\n' for name in THREE[1:])
    (whole / "study.toml").write_text(text.replace("[shards]", f"{others}[shards]"))
    study = load_study(whole)
    for cell in study.cells():
        evaluate_run(study, study.run_id(cell))
    return auc_by_run(study)


def test_the_combined_matrix_is_the_pooled_studys(folder: Path, hospitals: list[Hospital]) -> None:
    results = [read_results(file) for file in sorted((folder / "together").glob("*.json"))]
    frame = combined_auc(results)
    keys = ["target_epsilon", "train_domain", "test_domain", "label", "subgroup"]
    there = pooled(folder).set_index(keys)
    macro = frame[(frame["label"] == "average") & (frame["subgroup"] == "all")]
    assert len(macro) == 2 * 3 * 3  # with DP and without, every model at every hospital
    for row in frame.to_dict("records"):
        of_pooled = there.loc[tuple(row[key] for key in keys)]
        assert abs(row["auc"] - of_pooled["auc"]) < 1e-12
        assert (row["ci_low"], row["ci_high"]) == (of_pooled["ci_low"], of_pooled["ci_high"])
    assert [line for line in disagreements(results) if "weights" in line or "epsilon" in line] == []


def test_only_bundles_and_results_left_and_no_id_is_in_them(folder: Path, hospitals: list[Hospital]) -> None:
    for hospital in hospitals:
        assert set(hospital.left) == {f"{hospital.name}_8.dpdt", f"{hospital.name}_inf.dpdt", "results.json"}
        cohort = pd.read_parquet(hospital.folder / "cohort" / f"{hospital.name}.parquet")
        names = {
            str(name) for column in ("image_id", "path", "patient_id") for name in cohort[column] if len(str(name)) > 5
        }
        assert len(names) > 100
        for name in hospital.left:
            content = (hospital.folder / "out" / name).read_bytes().decode("latin-1")
            assert [one for one in names if one in content] == []
            assert str(folder) not in content
    assert (folder / "together" / "report" / "index.html").exists()


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("setpriv") is None, reason="needs root to keep folders apart")
def test_no_hospital_can_read_anothers_folder(hospitals: list[Hospital]) -> None:
    one, two = hospitals[:2]
    assert "study.toml" in one.shell("ls", str(one.folder))
    with pytest.raises(RuntimeError, match="Permission denied"):
        one.shell("ls", str(two.folder))
    with pytest.raises(RuntimeError, match="Permission denied"):
        one.shell("cat", str(two.folder / "study.toml"))
