"""Another hospital's model in a study: tested on this hospital's patients as in a study that has both hospitals."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
import torch

from dpdt.base.files import read_json, write_json
from dpdt.base.vocabulary import LABELS
from dpdt.bundle.container import pack, unpack
from dpdt.bundle.export import export_run
from dpdt.errors import BundleError, StudyError
from dpdt.evaluation.evaluate import evaluate_run, evaluation_done
from dpdt.privacy.statements import refresh_statements
from dpdt.report.write import write_report
from dpdt.runs.read import model_runs, read_run
from dpdt.study import Cell, Study, load_study
from dpdt.study.frozen import as_frozen, from_frozen
from dpdt.study.settings import ModelSettings
from dpdt.study.tasks import choose, needs, tasks
from dpdt.tracking.payload import payload
from dpdt.tracking.sync import sync
from dpdt.training.networks.build import as_input, build_model
from dpdt.training.stage import run as train_run
from tests import small_images
from tests.fuzz_bundle import seed_bundle
from tests.small_data import STUDY, write_domain

HOME = STUDY.replace('[domains.mimic]\nroot = "raw/mimic"\n', "")
BOTH = HOME.replace("[shards]", '[domains.vindr]\nroot = "raw/vindr"\n[evaluate]\ndomains = ["uka", "vindr"]\n[shards]')
POOLED = BOTH.replace("[train]", '[train]\ndomains = ["uka"]')
ABROAD = HOME.replace("uka", "vindr")
GIVEN = {"licence": "none", "intended_use": "tests"}


def study_in(folder: Path, text: str) -> Study:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "study.toml").write_text(text)
    study = load_study(folder)
    for domain in study.domains:
        if not study.paths.cohort_table(domain).exists():
            write_domain(study, domain, patients=60)
    return study


@pytest.fixture(scope="module")
def pooled(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """What hospitals that pool would have: uka's models, tested on uka and vindr."""
    study = study_in(tmp_path_factory.mktemp("pooled"), POOLED)
    for cell in study.cells():
        train_run(study, study.run_id(cell))
        evaluate_run(study, study.run_id(cell))
    return study


def bundle_of(study: Study, *, private: bool, **more: Any) -> bytes:
    cell = next(cell for cell in study.cells() if cell.private == private)
    run = read_run(study, study.run_id(cell))
    assert run
    return export_run(study, run, **GIVEN, without_privacy=True, **more)


@pytest.fixture
def abroad(pooled: Study, tmp_path: Path) -> Study:
    """vindr's own study, with two models of uka."""
    (tmp_path / "8.dpdt").write_bytes(bundle_of(pooled, private=True))
    (tmp_path / "inf.dpdt").write_bytes(bundle_of(pooled, private=False))
    return study_in(tmp_path, ABROAD + '[models.uka_8]\nbundle = "8.dpdt"\n[models.uka_inf]\nbundle = "inf.dpdt"\n')


def test_its_metrics_abroad_are_those_of_the_pooled_study_to_the_last_bit(pooled: Study, abroad: Study) -> None:
    for run_id in abroad.carried:
        evaluate_run(abroad, run_id)
        assert evaluation_done(abroad, run_id)
    for cell, run in model_runs(abroad).items():
        if run is None:
            continue
        there = pd.read_parquet(pooled.paths.run(pooled.run_id(cell)).metrics).query("test_domain == 'vindr'")
        here = pd.read_parquet(run.paths.metrics).query("test_domain == 'vindr'")
        free = ~there["metric"].isin(["accuracy", "sensitivity", "specificity", "f1", "positive_rate"])
        free &= ~there["subgroup"].isin(["sex", "age_group"]) & (there["metric"] != "underdiagnosis_rate")
        assert free.sum() > 200
        pd.testing.assert_frame_equal(
            here[free.to_numpy()].reset_index(drop=True), there[free].reset_index(drop=True), check_exact=True
        )
    assert set(model_runs(abroad)) >= {Cell("uka", 8.0, 0), Cell("uka", float("inf"), 0)}


def test_models_of_others_change_no_name_and_no_fingerprint(tmp_path: Path) -> None:
    for name, more in (("without", ""), ("with", '[models.other]\nbundle = "other.dpdt"\n')):
        (tmp_path / name).mkdir()
        (tmp_path / name / "study.toml").write_text(STUDY + more)
    one, two = load_study(tmp_path / "without"), load_study(tmp_path / "with")
    assert [one.run_id(cell) for cell in one.cells()] == [two.run_id(cell) for cell in two.cells()]
    assert one.shards_fingerprint("uka") == two.shards_fingerprint("uka")
    assert {t.name for t in needs(two)} - {t.name for t in needs(one)} == {"evaluate-bundle-other"}
    assert from_frozen(as_frozen(two)).carried == {"bundle-other": "other"}


def test_its_test_needs_the_shards_and_no_training(abroad: Study) -> None:
    task = next(task for task in tasks(abroad, "evaluate") if task.key == "bundle-uka_8")
    assert {other.name for other in needs(abroad)[task]} == {"shards-vindr"}
    assert task in needs(abroad)[tasks(abroad, "report")[0]]
    assert task in choose(abroad, "evaluate", None, None, None)
    assert task not in choose(abroad, "evaluate", ["vindr"], None, None)
    assert choose(abroad, "evaluate", ["uka_8"], None, None) == [task]
    with pytest.raises(StudyError, match=r"evaluate: nothing to do: no model of the study is all that is asked for"):
        choose(abroad, "evaluate", ["uka_8"], [8.0])  # which seed and epsilon it has its bundle says


def test_a_bundle_that_changes_is_tested_again(pooled: Study, abroad: Study, tmp_path: Path) -> None:
    evaluate_run(abroad, "bundle-uka_8")
    before = abroad.paths.run("bundle-uka_8").metrics.read_bytes()
    (tmp_path / "8.dpdt").write_bytes(bundle_of(pooled, private=False, site="uka_b"))
    assert not evaluation_done(abroad, "bundle-uka_8")
    evaluate_run(abroad, "bundle-uka_8")
    assert abroad.paths.run("bundle-uka_8").metrics.read_bytes() != before
    (tmp_path / "8.dpdt").unlink()
    assert evaluation_done(abroad, "bundle-uka_8")  # what is gone cannot have become another


def test_two_models_of_one_name_are_refused(pooled: Study, tmp_path: Path) -> None:
    (tmp_path / "a.dpdt").write_bytes(bundle_of(pooled, private=True))
    text = ABROAD + '[models.one]\nbundle = "a.dpdt"\n[models.two]\nbundle = "a.dpdt"\n'
    study = study_in(tmp_path, text)
    evaluate_run(study, "bundle-one")
    with pytest.raises(BundleError, match=r"models.two: a model of uka with its target epsilon and seed is there"):
        evaluate_run(study, "bundle-two")
    (tmp_path / "a.dpdt").write_bytes(bundle_of(pooled, private=True, site="vindr"))
    with pytest.raises(BundleError, match=r"models.one: a model of vindr .* have it exported with another --site"):
        evaluate_run(study, "bundle-one")


def test_its_statement_and_thresholds_stay_as_they_came(pooled: Study, abroad: Study, tmp_path: Path) -> None:
    manifest, tensors = unpack((tmp_path / "8.dpdt").read_bytes(), "b")
    manifest["thresholds"]["healthy"] = 0.25
    (tmp_path / "8.dpdt").write_bytes(pack(manifest, tensors))
    evaluate_run(abroad, "bundle-uka_8")
    paths = abroad.paths.run("bundle-uka_8")
    refresh_statements(abroad)
    assert read_json(paths.privacy) == manifest["statement"]
    rows = pd.read_parquet(paths.metrics).query("metric == 'threshold'").set_index("label")
    assert rows.loc["healthy", "value"] == 0.25
    assert rows.loc["healthy", "reason"] == "bundle of uka"
    assert np.isnan(rows.loc["pneumonia", "value"])


def test_labels_are_joined_by_their_names(pooled: Study, abroad: Study, tmp_path: Path) -> None:
    """A model whose outputs are in another order, and one of them unknown here."""
    manifest, tensors = unpack((tmp_path / "8.dpdt").read_bytes(), "b")
    order = [3, 0, 4, 1, 2]
    names = [*(LABELS[k] for k in order[:4]), "edema"]  # without pneumonia
    tensors["weights.fc.weight"], tensors["weights.fc.bias"] = (
        tensors[f"weights.fc.{n}"][order] for n in ("weight", "bias")
    )
    manifest["labels"], manifest["thresholds"] = names, dict.fromkeys(names)
    for test in manifest["self_test"]:
        values = list(test["scores"].values())
        test["scores"] = dict(zip(names, (values[k] for k in order), strict=True))
    evaluate_run(abroad, "bundle-uka_8")
    file = abroad.paths.run("bundle-uka_8").predictions("vindr")
    before = pd.read_parquet(file)
    (tmp_path / "8.dpdt").write_bytes(pack(manifest, tensors))
    evaluate_run(abroad, "bundle-uka_8")
    after = pd.read_parquet(file)
    known = before["label"] != "pneumonia"
    assert np.allclose(after.loc[known, "score"], before.loc[known, "score"], atol=1e-6)
    assert after.loc[~known, "score"].isna().all()
    assert after.loc[~known, "target"].isna().all()
    table = pd.read_parquet(abroad.paths.run("bundle-uka_8").metrics)
    lacking = table.query("label == 'pneumonia' and metric == 'auc' and subgroup == 'all'").iloc[0]
    assert np.isnan(lacking["value"])
    macro = table.query("label == 'average' and metric == 'auc' and subgroup == 'all'").iloc[0]
    assert "pneumonia" not in macro["labels"]
    manifest["labels"] = ["edema", "b", "c", "d", "e"]
    manifest["thresholds"] = dict.fromkeys(manifest["labels"])
    for test in manifest["self_test"]:
        test["scores"] = dict(zip(manifest["labels"], test["scores"].values(), strict=True))
    (tmp_path / "8.dpdt").write_bytes(pack(manifest, tensors))
    with pytest.raises(BundleError, match=r"none of its labels \(edema, b, c, d, e\) is one of the study's"):
        evaluate_run(abroad, "bundle-uka_8")


def test_the_report_and_mlflow_show_it_beside_the_own_models(abroad: Study) -> None:
    evaluate_run(abroad, "bundle-uka_8")
    page = write_report(abroad).read_text(encoding="utf-8")
    assert "UKA-CXR, ε = 8, seed 0" in page
    assert "bundle-uka_inf</code>: not tested yet" in page
    auc = pd.read_csv(abroad.paths.report / "auc.csv")
    assert set(auc["train_domain"]) == {"uka"}
    assert (abroad.paths.report / "fairness.csv").read_text().count("uka") > 0
    run = read_run(abroad, "bundle-uka_8")
    assert run
    sent = payload(run)
    assert sent.tags["dpdt.kind"] == "bundle"
    assert "model/README.md" not in sent.texts


def test_mlflow_gets_its_numbers_and_no_path_and_no_id(pooled: Study, abroad: Study, tmp_path: Path) -> None:
    manifest, tensors = unpack((tmp_path / "8.dpdt").read_bytes(), "b")
    manifest["statement"]["paragraph"] += " ![seen](http://track.example/x.png)"
    (tmp_path / "8.dpdt").write_bytes(pack(manifest, tensors))
    evaluate_run(abroad, "bundle-uka_8")
    sync(abroad)
    query = "select m.key, m.value from latest_metrics m join tags t using (run_uuid) where t.key = 'dpdt.run_id' "
    with closing(sqlite3.connect(abroad.paths.mlflow_database)) as database:
        sent = dict(database.execute(f"{query} and t.value = 'bundle-uka_8'").fetchall())
        dump = "\n".join(database.iterdump())
    table = pd.read_parquet(abroad.paths.run("bundle-uka_8").metrics)
    macro = table.query("label == 'average' and metric == 'auc' and subgroup == 'all'").iloc[0]
    assert macro["value"] in sent.values()
    assert "uka · patient ε=8 · seed 0" in dump
    files = [file for file in abroad.paths.mlflow_artifacts.rglob("*") if file.is_file()]
    assert files
    everything = dump.replace(str(abroad.paths.mlflow_artifacts), "") + "".join(map(str, map(Path.read_bytes, files)))
    cohort = pd.read_parquet(abroad.paths.cohort_table("vindr"))
    assert [name for name in cohort["image_id"] if name in everything] == []
    for secret in (str(tmp_path), str(pooled.folder), "8.dpdt"):
        assert secret not in everything
    assert r"!\[seen]" in dump  # MLflow shows the description as Markdown, and would fetch the picture
    assert "![seen]" not in dump


def other_preprocessing() -> bytes:
    """A bundle for 8 pixels, with a self-test that passes."""
    torch.manual_seed(1)
    manifest, tensors = unpack(seed_bundle(), "seed")
    model = build_model(ModelSettings(width=8)).eval()
    model.load_state_dict({k[8:]: torch.from_numpy(v) for k, v in tensors.items() if k.startswith("weights.")})
    for number, test in enumerate(manifest["self_test"]):
        with torch.inference_mode():
            found = torch.sigmoid(model(as_input(tensors[f"test.{number}.pixels"][None])))[0]
        test["scores"] = dict(zip(LABELS, map(float, found), strict=True))
    return pack(manifest, tensors)


def test_other_preprocessing_has_shards_of_its_own_which_models_share(tmp_path: Path) -> None:
    files = [f"{number}.png" for number in range(24)]
    study = small_images.make_study(tmp_path, files)
    for number, name in enumerate(files):
        cv2.imwrite(str(tmp_path / "raw" / name), small_images.picture(number))
    one = other_preprocessing()
    manifest, tensors = unpack(one, "b")
    (tmp_path / "one.dpdt").write_bytes(one)
    (tmp_path / "two.dpdt").write_bytes(pack({**manifest, "site": "another"}, tensors))
    text = (tmp_path / "study.toml").read_text()
    (tmp_path / "study.toml").write_text(
        text + '\n[models.one]\nbundle = "one.dpdt"\n[models.two]\nbundle = "two.dpdt"\n'
    )
    study = load_study(tmp_path)
    record = read_json(study.paths.cohort_record("vindr"))
    write_json(study.paths.cohort_record("vindr"), {**record, "split_sha256": "0" * 64})
    evaluate_run(study, "bundle-one")
    (folder,) = tmp_path.glob("shards-*")
    made = (folder / "vindr" / "manifest.json").stat().st_mtime_ns
    evaluate_run(study, "bundle-two")
    assert (folder / "vindr" / "manifest.json").stat().st_mtime_ns == made
    assert [path.name for path in tmp_path.glob("shards*")] == [folder.name]  # the study's own were not needed
    shard = np.load(folder / "vindr" / "shard-00000.npy")
    assert shard.shape[1:] == (8, 8)
    # every fourth image is in test: small_images.make_study
    assert len(pd.read_parquet(folder / "vindr" / "index.parquet")) == 6
    assert evaluation_done(study, "bundle-one")


def test_a_models_name_is_a_word(tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text(STUDY + '[models."../x"]\nbundle = "a.dpdt"\n')
    with pytest.raises(StudyError, match=r"models.../x: use letters, digits and _ only"):
        load_study(tmp_path)
