"""The report from hand-made run folders: its tables against numbers computed here, its page as people get it."""

import csv
import math
import re
import shutil
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dpdt.base.files import make_folder, read_json, write_json
from dpdt.base.vocabulary import LABELS, SUBGROUPS
from dpdt.evaluation.metrics import ALL, AVERAGE, FAIRNESS, auc_covariance
from dpdt.report import figures, provenance, tables
from dpdt.report.answer import answer
from dpdt.report.cards import data_sheets
from dpdt.report.grid import Grid
from dpdt.report.intervals import DrawKey, Draws
from dpdt.report.write import auc_table, write_report
from dpdt.runs.read import model_runs
from dpdt.study import Cell, Study
from tests.fake_runs import FakeRuns

pytestmark = pytest.mark.slow

Make = Callable[..., FakeRuns]
TWO = ("vindr", "uka")


@pytest.fixture
def real_figures() -> None:
    """A test that asks for it draws: drawing takes most of the time."""


@pytest.fixture(autouse=True)
def quick_figures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "real_figures" not in request.fixturenames:
        for name in ("page.draw", "page.draw_differences", "page.draw_story", "write.draw_study"):
            monkeypatch.setattr(f"dpdt.report.{name}", lambda *_: {})


def auc_matrix(study: Study, target_epsilon: float) -> pd.DataFrame:
    auc = tables.mean_over_seeds(study, tables.auc_by_run(study))
    return tables.macro_matrix(Grid.of(study), auc, target_epsilon)


def page_text(study: Study) -> str:
    """What a reader sees, without styles and white space."""
    words: list[str] = []

    class Reader(HTMLParser):
        def handle_data(self, data: str) -> None:
            if self.lasttag != "style":
                words.append(data)

    Reader().feed((study.paths.report / "index.html").read_text(encoding="utf-8"))
    return re.sub(r"\s+", " ", " ".join(words))


def test_auc_csv_has_the_columns_of_the_design_and_every_cell(fake_runs: Make) -> None:
    study = fake_runs(TWO, "[1.0, inf]").all().study
    write_report(study)
    with (study.paths.report / "auc.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    columns = (
        "privacy_unit,target_epsilon,label,subgroup,train_domain,test_domain,auc,ci_low,ci_high,n,labels,auc_common"
    )
    assert ",".join(rows[0]) == columns
    assert len(rows) == 2 * 2 * 2 * (len(LABELS) + 1) * (len(SUBGROUPS) + 1)
    assert {row["target_epsilon"] for row in rows} == {"1", "inf"}
    run = study.paths.run(study.run_id(Cell("vindr", 1.0, 0)))
    stored = pd.read_parquet(run.metrics)
    wanted = {"test_domain": "uka", "label": "healthy", "subgroup": "male"}
    chosen = [
        row
        for row in rows
        if row["train_domain"] == "vindr"
        and row["target_epsilon"] == "1"
        and all(row[key] == value for key, value in wanted.items())
    ]
    (expected,) = stored[(stored[list(wanted)] == pd.Series(wanted)).all(axis=1) & (stored["metric"] == "auc")]["value"]
    assert float(chosen[0]["auc"]) == pytest.approx(expected, abs=1e-6)


def test_an_undefined_cell_is_empty_but_has_its_n(fake_runs: Make) -> None:
    runs = fake_runs(TWO, "[inf]").all(change=lambda frame: frame.assign(target_pneumonia=0.0))
    write_report(runs.study)
    with (runs.study.paths.report / "auc.csv").open() as stream:
        rows = [row for row in csv.DictReader(stream) if row["label"] == "pneumonia" and row["subgroup"] == "all"]
    assert {(row["auc"], row["ci_low"], row["n"]) for row in rows} == {("", "", "240")}
    assert "one class only: 0 of 240 images positive" in page_text(runs.study)


def test_a_domain_without_a_label_is_compared_over_the_others(fake_runs: Make) -> None:
    """Its macro AUC is of four labels beside five: marked, listed, and both values are in the CSV."""

    def without(frame: pd.DataFrame) -> pd.DataFrame:
        return frame.assign(target_pneumonia=math.nan) if frame["image_id"][0].startswith("uka") else frame

    study = fake_runs(TWO, "[1.0, inf]").all(change=without).study
    write_report(study)
    table = pd.read_csv(study.paths.report / "auc.csv", keep_default_na=False, na_values=[""])
    cell = ["target_epsilon", "train_domain", "test_domain"]
    everyone = table[table["subgroup"] == "all"]
    of_labels = everyone.pivot(index=cell, columns="label", values="auc")
    four = [label for label in LABELS if label != "pneumonia"]
    averages = everyone[everyone["label"] == "average"].set_index(cell)
    for key, row in averages.iterrows():
        own = four if key[2] == "uka" else list(LABELS)
        assert row["labels"] == ",".join(own)
        assert row["auc"] == pytest.approx(of_labels.loc[key, own].mean(), abs=1e-5)
        assert row["auc_common"] == pytest.approx(of_labels.loc[key, four].mean(), abs=1e-5)
    # The on-domain mean, its difference and its interval are over the four that both have.
    common = averages["auc_common"]
    on_domain = {e: (common[e, "vindr", "vindr"] + common[e, "uka", "uka"]) / 2 for e in (1.0, math.inf)}
    curve = pd.read_csv(study.paths.report / "epsilon_curve.csv")
    mean = curve[(curve["scope"] == "on-domain") & (curve["train_domain"] == "mean")].set_index("target_epsilon")
    for epsilon, value in on_domain.items():
        assert mean.loc[epsilon, "auc"] == pytest.approx(value, abs=1e-5)
        assert mean.loc[epsilon, "ci_low"] < value < mean.loc[epsilon, "ci_high"]
    text = page_text(study)
    assert (
        "Not every test domain has a macro AUC of the same labels: UKA-CXR (cardiomegaly, pleural effusion, atelectasis"
        in text
    )
    assert auc_table(study, math.inf)[0] == ["trained on", "vindr", "uka*"]
    grid = Grid.of(study)
    auc = tables.mean_over_seeds(study, tables.auc_by_run(study))
    (on,) = [arm for arm in tables.arms(grid, auc) if arm.scope == "on-domain" and arm.target_epsilon == 1.0]
    assert on.difference == pytest.approx(on_domain[1.0] - on_domain[math.inf], abs=1e-5)


def test_the_same_labels_everywhere_need_no_mark(fake_runs: Make) -> None:
    study = fake_runs(TWO, "[inf]").all(change=lambda frame: frame.assign(target_pneumonia=0.0)).study
    auc = tables.mean_over_seeds(study, tables.auc_by_run(study))
    averages = auc[auc["label"] == "average"]
    pd.testing.assert_series_equal(averages["auc_common"], averages["auc"], check_names=False, check_exact=True)
    assert tables.other_labels(auc) == {}
    assert tables.averaged_over(auc) == ("average",)


def test_metrics_of_before_without_the_column_labels_are_read(fake_runs: Make) -> None:
    runs = fake_runs(("vindr",), "[inf]").all(change=lambda frame: frame.assign(target_pneumonia=0.0))
    file = runs.study.paths.run(runs.study.run_id(Cell("vindr", math.inf, 0))).metrics
    pd.read_parquet(file).drop(columns="labels").to_parquet(file, index=False)
    auc = tables.mean_over_seeds(runs.study, tables.auc_by_run(runs.study))
    assert set(auc.loc[auc["label"] == "average", "labels"]) == {"cardiomegaly,pleural_effusion,atelectasis,healthy"}


def test_means_and_differences_are_those_of_the_matrices(fake_runs: Make) -> None:
    study = fake_runs(("vindr", "uka", "padchest")).all().study
    auc = tables.mean_over_seeds(study, tables.auc_by_run(study))
    found = {(arm.target_epsilon, arm.scope): arm for arm in tables.arms(Grid.of(study), auc)}
    without, private = auc_matrix(study, math.inf).to_numpy(), auc_matrix(study, 1.0).to_numpy()
    on = found[1.0, "on-domain"]
    assert on.auc == pytest.approx(private.trace() / 3)
    assert on.difference == pytest.approx((private - without).trace() / 3)
    off = found[1.0, "off-domain"]
    assert (off.pairs, off.shared_pairs) == (6, 6)
    assert off.auc == pytest.approx((private.sum() - private.trace()) / 6)
    assert math.isnan(found[math.inf, "on-domain"].difference)


def test_the_difference_is_over_pairs_that_both_arms_have(fake_runs: Make) -> None:
    runs = fake_runs(TWO, "[1.0, inf]").all()
    runs.study.paths.run(runs.study.run_id(Cell("uka", 1.0, 0))).metrics.unlink()
    auc = tables.mean_over_seeds(runs.study, tables.auc_by_run(runs.study))
    on = next(a for a in tables.arms(Grid.of(runs.study), auc) if a.target_epsilon == 1 and a.scope == "on-domain")
    expected = (
        auc_matrix(runs.study, 1.0).loc["vindr", "vindr"] - auc_matrix(runs.study, math.inf).loc["vindr", "vindr"]
    )
    assert (on.pairs, on.expected_pairs, on.shared_pairs) == (1, 2, 1)
    assert on.difference == pytest.approx(expected)


def test_the_report_is_made_from_what_is_there_and_names_what_is_missing(fake_runs: Make) -> None:
    runs = fake_runs(TWO, "[1.0, inf]")
    runs.train(Cell("vindr", math.inf, 0))
    runs.evaluate(Cell("vindr", math.inf, 0))
    runs.train(Cell("uka", math.inf, 0))
    runs.train(Cell("vindr", 1.0, 0), status="interrupted", steps=7)
    study = runs.study
    write_report(study)
    text = page_text(study)
    assert "3 models are missing" in text
    assert f"{study.run_id(Cell('uka', math.inf, 0))} : trained, not evaluated yet" in text
    assert f"{study.run_id(Cell('vindr', 1.0, 0))} : training interrupted" in text
    assert f"{study.run_id(Cell('uka', 1.0, 0))} : not trained yet" in text
    columns, rows = auc_table(study, math.inf)
    assert columns == ["trained on", "vindr", "uka"]
    assert rows[1] == ["uka", "–", "–"]


def test_a_study_without_any_run_has_a_report_too(fake_runs: Make) -> None:
    study = fake_runs().study
    page = write_report(study)
    assert "No model has been evaluated yet." in page_text(study)
    assert "<svg" not in page.read_text(encoding="utf-8")
    assert (study.paths.report / "auc.csv").read_text().startswith("privacy_unit,target_epsilon,")


def test_a_damaged_metrics_file_counts_as_missing(fake_runs: Make) -> None:
    runs = fake_runs(("vindr",), "[inf]").all()
    runs.study.paths.run(runs.study.run_id(Cell("vindr", math.inf, 0))).metrics.write_bytes(b"PAR1 torn")
    write_report(runs.study)
    assert "trained, not evaluated yet" in page_text(runs.study)


@pytest.mark.slow
def test_the_page_needs_no_server_and_no_network(fake_runs: Make, real_figures: None) -> None:
    study = fake_runs(TWO, "[8.0, inf]").all().study
    html = write_report(study).read_text(encoding="utf-8")
    assert "<script" not in html
    figures = re.findall(r'<svg role="img" aria-label="([^"]+)"', html)
    # 2 epsilons x (average + 5 labels), the curve, two subgroup figures, story, 2 x 2 differences, steps; ROC,
    # precision-recall, calibration, scores and confusion of two hospitals
    assert len(figures) == 2 * 6 + 3 + 1 + 4 + 1 + 5 * 2
    assert len(set(figures)) == len(figures)
    assert html.count("<figcaption>") == len(figures)
    ids = re.findall(r'\sid="([^"]+)"', html)
    assert len(set(ids)) == len(ids)
    for used in re.findall(r'(?:url\(#|href="#)([^")]+)', html):
        assert used in ids
    assert not re.search(r'(?:href|url\()\s*["\']?(?:https?:)?//', html)
    for link in re.findall(r'<a href="([^"#]+)"', html):
        assert (study.paths.report / link.split("#")[0]).is_file(), link
    for kind in ("svg", "pdf", "csv"):
        assert len(list((study.paths.report / "figures").glob(f"*.{kind}"))) == len(figures)
    pictures = {file.stem for file in (study.paths.report / "figures").glob("*.png")}  # what MLflow and the docs show
    assert pictures >= {"auc_over_epsilon", "subgroups_on-domain", "subgroups_off-domain", "auc_eps8_average"}


def test_no_patient_image_or_path_is_in_the_report(fake_runs: Make, real_figures: None) -> None:
    study = fake_runs(TWO, "[inf]").all().study
    write_report(study)
    for file in study.paths.report.rglob("*.*"):
        content = file.read_bytes()
        for secret in (b"SECRETPATIENT", b"SECRETIMAGE", str(study.folder).encode(), str(study.root("uka")).encode()):
            assert secret not in content, file.name


def test_names_are_escaped(fake_runs: Make) -> None:
    study = fake_runs(("vindr",), "[inf]", name="<script>alert(1)</script> & co").all().study
    html = write_report(study).read_text(encoding="utf-8")
    assert "<script>" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; co" in html


def test_the_synthetic_banner_is_there_only_for_synthetic_data(fake_runs: Make) -> None:
    runs = fake_runs(("vindr",), "[inf]").all()
    write_report(runs.study)
    assert "SYNTHETIC DATA" in page_text(runs.study)
    run = runs.study.paths.run(runs.study.run_id(Cell("vindr", math.inf, 0)))
    write_json(run.config, {**pd.read_json(run.config, typ="series").to_dict(), "synthetic": False})
    write_report(runs.study)
    assert "SYNTHETIC DATA" not in page_text(runs.study)
    write_json(runs.study.paths.cohort_record("vindr"), {"synthetic": True})
    write_report(runs.study)
    assert "SYNTHETIC DATA" in page_text(runs.study)


@pytest.mark.slow
def test_one_domain_and_many_work(fake_runs: Make) -> None:
    many = tuple(f"hospital_{number}" for number in range(7))
    study = fake_runs(many, "[inf]").all().study
    write_report(study)
    assert auc_matrix(study, math.inf).shape == (7, 7)
    one = fake_runs(("somewhere",), "[2.0, inf]").all().study
    write_report(one)
    arms = tables.arms(Grid.of(one), tables.mean_over_seeds(one, tables.auc_by_run(one)))
    assert "other domains" not in " ".join(answer(arms, [], Grid.of(one), 0.01))
    assert not (one.paths.report / "figures" / "subgroups_off-domain.png").exists()


def test_seeds_are_averaged_and_each_is_kept(fake_runs: Make) -> None:
    study = fake_runs(("vindr",), "[inf]", more="[train]\nseeds = [0, 1]").all().study
    by_run = tables.auc_by_run(study)
    assert set(by_run["seed"]) == {0, 1}
    assert len(tables.mean_over_seeds(study, by_run)) == len(by_run) / 2
    write_report(study)
    assert "AUCs are means over 2 seeds" in page_text(study)


def test_models_with_other_numbers_of_draws_have_a_report_and_no_common_interval(fake_runs: Make) -> None:
    """`evaluate.bootstrap_draws` was changed, and one model alone was evaluated since: its draws are no one's twin."""
    runs = fake_runs(TWO, "[1.0, inf]").all()
    runs.evaluate(Cell("uka", math.inf, 0), draws=30)
    write_report(runs.study)
    found = Draws.of(runs.study)
    vindr, uka = (DrawKey(math.inf, name, "vindr", AVERAGE, ALL, "auc") for name in TWO)
    assert found.mean([vindr]).low < found.mean([vindr]).high
    assert found.mean([uka]).low < found.mean([uka]).high
    assert math.isnan(found.mean([vindr, uka]).low)
    assert math.isnan(found.mean([vindr], minus=[uka]).low)
    assert math.isnan(found.share([vindr], start=[uka], whole=[vindr])[1].low)


def test_seeds_with_other_numbers_of_draws_have_no_interval(fake_runs: Make) -> None:
    runs = fake_runs(("vindr",), "[inf]", more="[train]\nseeds = [0, 1, 2]").all()
    runs.evaluate(Cell("vindr", math.inf, 1), draws=30)
    assert not Draws.of(runs.study)
    runs.evaluate(Cell("vindr", math.inf, 1))
    assert Draws.of(runs.study)


def test_the_cohort_flow_is_shown(fake_runs: Make) -> None:
    study = fake_runs(("vindr",), "[inf]").all().study
    rows = ["domain,split,what,value,images,patients", "vindr,,rows read,,1812,", "vindr,,excluded,lateral view,12,"]
    rows += ["vindr,all,total,,1800,900", "vindr,train,total,,1200,600", "vindr,test,healthy,positive,77,70"]
    make_folder(study.paths.cohort_summary.parent)
    study.paths.cohort_summary.write_text("\n".join(rows))
    write_report(study)
    text = page_text(study)
    for expected in ("1,812", "1,800 (900)", "1,200 (600)", "77"):
        assert expected in text


def test_a_data_sheet_a_hospital_and_a_card_a_model_are_linked(fake_runs: Make) -> None:
    study = fake_runs(("vindr",), "[1.0, inf]").all().study
    rows = ["domain,split,what,value,images,patients", "vindr,,rows read,,1812,", "vindr,,excluded,lateral view,12,"]
    rows += ["vindr,all,total,,1800,900", "vindr,train,total,,1200,600", "vindr,test,age,age_0_40,19,9"]
    rows += ["vindr,test,sex,unknown,20,10", "vindr,test,pleural_effusion,positive,77,70"]
    make_folder(study.paths.cohort_summary.parent)
    study.paths.cohort_summary.write_text("\n".join(rows))
    page = write_report(study)
    linked = re.findall(r'href="(cards/[^"]+)"', page.read_text())
    texts = {name: re.sub(r"<[^>]+>", " ", (page.parent / name).read_text()) for name in linked}
    assert sorted(linked) == sorted(f"cards/{file.name}" for file in (page.parent / "cards").iterdir())
    sheet = " ".join(texts.pop("cards/data-vindr.html").split())
    for expected in (
        "excluded: lateral view 10 images",  # twelve: tens alone, so that no group is what others leave of a sum
        "all, training 1,200 images, 600 patients",
        "ages 0 to 40, test fewer than 10 patients",  # nine
        "sex unknown, test 20 images, 10 patients",
        "pleural effusion positive, test 80 images, 70 patients",  # 77
        "Ethics approval",
    ):
        assert expected in sheet
    private = texts[f"cards/{study.run_id(Cell('vindr', 1.0, 0))}.html"]
    auc = tables.auc_by_run(study).query("label == 'average' and subgroup == 'all' and target_epsilon == 1")["auc"]
    assert len(texts) == 2
    assert "This model was trained with differential privacy." in private
    assert re.search(rf"macro AUC, VinDr-CXR\s+{auc.iloc[0]:.2f}", private)
    assert "No patient is in two splits." in sheet
    statement = study.paths.run(study.run_id(Cell("vindr", 1.0, 0))).privacy
    write_json(statement, {**read_json(statement), "unit_note": "each image counts as one patient"})
    runs = [run for run in model_runs(study).values() if run]
    ((_, html),) = data_sheets(study, runs).values()
    assert "each image counts as one patient: no image is in two splits, but a patient may be." in html
    study.paths.cohort_summary.write_text("\n".join([*rows, "vindr,test,total,,300,150"]))
    assert "(of VinDr-CXR each image counts as a patient)" in provenance.people(study, runs)


def test_the_privacy_of_every_dp_run_is_stated(fake_runs: Make) -> None:
    study = fake_runs(TWO, "[1.0, inf]").all().study
    statement = study.paths.run(study.run_id(Cell("vindr", 1.0, 0))).privacy
    write_json(statement, {**read_json(statement), "accounted_noise_multiplier": 1.2})  # what `dpdt epsilon` takes
    write_report(study)
    text = page_text(study)
    assert "VinDr-CXR, ε = 1, seed 0 1 1e-05 300 zero out one patient 1.25 (1.2) 1.5 0.1 40 pld" in text
    assert "number of units exact count taken as public" in text
    assert "VinDr-CXR, no DP, seed 0. This model was trained without differential privacy." in text


def test_the_colour_scale_is_shared_and_starts_at_chance_or_below() -> None:
    groups = ["all", "all", "female"]  # no heat map shows a subgroup
    assert figures.auc_scale(pd.DataFrame({"auc": [0.7, 0.9, 0.1], "subgroup": groups})) == (0.5, 1.0)
    assert figures.auc_scale(pd.DataFrame({"auc": [0.43, 0.9, 0.1], "subgroup": groups})) == (0.4, 1.0)
    assert figures.auc_scale(pd.DataFrame({"auc": [], "subgroup": []})) == (0.5, 1.0)


def test_a_second_report_replaces_the_first(fake_runs: Make) -> None:
    study = fake_runs(("vindr",), "[inf]").all().study
    write_report(study)
    stale = study.paths.report / "figures" / "auc_eps3_average.png"
    make_folder(stale.parent)
    stale.write_bytes(b"old")
    first = (study.paths.report / "index.html").read_bytes()
    write_report(study)
    assert not stale.exists()
    assert (study.paths.report / "index.html").read_bytes() == first


def test_models_are_compared_on_the_same_draws_with_their_tests(fake_runs: Make) -> None:
    study = fake_runs(TWO, "[1.0, inf]").all().study
    write_report(study)
    table = pd.read_csv(study.paths.report / "comparisons.csv")
    assert len(table) == 2 * 2 * (len(LABELS) + 1)
    chosen = table[(table["train_domain"] == "vindr") & (table["test_domain"] == "uka") & (table["label"] == "healthy")]
    (row,) = chosen.to_dict("records")
    frames = [
        pd.read_parquet(study.paths.run(study.run_id(Cell("vindr", epsilon, 0))).predictions("uka"))
        for epsilon in (1.0, math.inf)
    ]
    first, second = (frame[frame["label"] == "healthy"] for frame in frames)
    aucs, covariance = auc_covariance(
        first["target"].to_numpy(dtype=int), np.stack([first["score"].to_numpy(), second["score"].to_numpy()])
    )
    assert row["difference"] == pytest.approx(aucs[0] - aucs[1], abs=1e-6)
    # Two images a patient whose findings are independent: the error by patient is near to that by image.
    by_image = math.sqrt(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    assert row["standard_error"] == pytest.approx(by_image, rel=0.25)
    assert row["p_holm"] >= row["p"]
    assert row["ci_low"] <= row["ci_high"]
    assert row["p_equivalence"] > 0.05  # 240 images cannot show a difference below .01
    assert "are shown to be within ±0.01 macro AUC" in page_text(study)


def test_a_label_that_is_undefined_has_no_comparison_but_a_reason(fake_runs: Make) -> None:
    study = fake_runs(("vindr",), "[1.0, inf]").all(change=lambda frame: frame.assign(target_pneumonia=0.0)).study
    write_report(study)
    table = pd.read_csv(study.paths.report / "comparisons.csv").set_index("label")
    assert math.isnan(table.loc["pneumonia", "p"])
    assert table.loc["pneumonia", "reason"] == "one class only: 0 of 240 images positive"
    assert table.loc["average", "reason"] == "over 4 of 5 labels"


def test_a_small_class_is_tested_by_permutation(fake_runs: Make) -> None:
    def few(frame: pd.DataFrame) -> pd.DataFrame:
        return frame.assign(target_healthy=[1.0] * 24 + [0.0] * (len(frame) - 24))  # two images a patient

    study = fake_runs(("vindr",), "[1.0, inf]").all(change=few).study
    write_report(study)
    table = pd.read_csv(study.paths.report / "comparisons.csv").set_index("label")
    assert table.loc["healthy", "test"] == "permutation"
    assert math.isnan(table.loc["healthy", "p_equivalence"])  # it would rest on the very error that is not trusted
    assert table.loc["healthy", "reason"] == "fewer than 20 patients of a class: no test of equivalence"
    assert table.loc["pneumonia", "test"] == "DeLong"


@pytest.mark.parametrize("positives", [1, 2])
def test_a_label_of_one_patient_is_not_tested_and_in_no_macro_test(fake_runs: Make, positives: int) -> None:
    """DeLong's variance of one positive is 0 for that class; two images of one patient are one patient."""

    def one(frame: pd.DataFrame) -> pd.DataFrame:
        return frame.assign(target_healthy=[1.0] * positives + [0.0] * (len(frame) - positives))

    study = fake_runs(("vindr",), "[1.0, inf]").all(change=one).study
    write_report(study)
    table = pd.read_csv(study.paths.report / "comparisons.csv").set_index("label")
    few = table.loc["healthy"]
    assert few[["p", "p_equivalence", "ci_low", "standard_error"]].isna().all()
    assert few["reason"] == "positive in 1 patient, fewer than 10: no interval, no test"
    text = page_text(study)
    assert "VinDr-CXR healthy all patients positive in 1 patient, fewer than 10: no interval, no test" in text
    # The macro row is what it would be if nobody had the label: of the four others.
    fake_runs(("vindr",), "[1.0, inf]").all(change=lambda frame: frame.assign(target_healthy=0.0))
    write_report(study)
    without = pd.read_csv(study.paths.report / "comparisons.csv").set_index("label").loc["average"]
    assert table.loc["average"].drop("ci_low").equals(without.drop("ci_low"))
    assert (without["reason"], without["test"]) == ("over 4 of 5 labels", "DeLong")


def test_fairness_both_protocols_and_intervals_are_on_the_page(fake_runs: Make) -> None:
    study = fake_runs(TWO, "[1.0, inf]").all().study
    write_report(study)
    text = page_text(study)
    for expected in ("AUC gap, sex", "AUC of the worst group, age", "underdiagnosis gap", "paper (optimistic)"):
        assert expected in text
    table = pd.read_csv(study.paths.report / "fairness.csv")
    private = table[(table["target_epsilon"] == 1.0) & (table["label"] == "average")]
    assert private["difference_low"].notna().all()
    curve = pd.read_csv(study.paths.report / "epsilon_curve.csv")
    means = curve[curve["train_domain"] == "mean"]
    assert ((means["ci_low"] <= means["auc"]) & (means["auc"] <= means["ci_high"])).all()


def test_of_very_many_metrics_a_label_within_a_group_has_its_auc_alone(
    fake_runs: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = fake_runs(TWO, "[1.0, inf]").all().study
    write_report(study)
    whole, text = pd.read_csv(study.paths.report / "metrics.csv"), page_text(study)
    monkeypatch.setattr("dpdt.report.compare.MOST_ROWS", len(whole) - 1)
    write_report(study)
    short = pd.read_csv(study.paths.report / "metrics.csv")
    inside = short[(short["label"] != "average") & (short["subgroup"] != "all")]
    assert set(inside["metric"]) == {"auc", "underdiagnosis_rate", *FAIRNESS}
    left_out = whole.merge(short, how="left", indicator=True).query("_merge == 'left_only'")
    assert not ((left_out["label"] == "average") | (left_out["subgroup"] == "all")).any()
    assert page_text(study) == text  # nothing that is shown is missing


@pytest.fixture
def tex() -> str:
    found = shutil.which("pdflatex")
    if found is None or shutil.which("bibtex") is None:
        pytest.skip("no LaTeX here: apt-get install texlive-latex-recommended")
    return found


def test_tables_for_a_paper_and_references_compile(fake_runs: Make, tex: str, tmp_path: Path) -> None:
    report = write_report(fake_runs(TWO, "[1.0, inf]", public=True).all().study).parent
    tables = sorted((report / "tables").glob("*.tex"))
    names = {file.stem for file in tables}
    assert names >= {"arms", "comparisons", "gain", "transfer_eps1", "subgroups_on-domain", "fairness_off-domain"}
    for file in (*tables, report / "references.bib"):
        shutil.copy(file, tmp_path)
    inputs = "".join(rf"\input{{{file.stem}}}\clearpage " for file in tables)
    packages = r"\usepackage{booktabs,graphicx}\usepackage[textwidth=7in]{geometry}"
    ending = r"\nocite{*}\bibliographystyle{plain}\bibliography{references}\end{document}"
    (tmp_path / "paper.tex").write_text(rf"\documentclass{{article}}{packages}\begin{{document}}{inputs}{ending}")
    run = [tex, "-halt-on-error", "-interaction=nonstopmode", "paper"]
    for command in (run, ["bibtex", "paper"], run, run):
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace", check=False)
        assert done.returncode == 0, done.stdout[-2000:]
    log = (tmp_path / "paper.log").read_text(errors="replace")
    assert re.findall(r"(?:Missing character|undefined|Overfull).*", log) == []
    assert f"({len(tables) + 1} pages" in log.replace("\n", "")


def test_numbers_of_another_cohort_are_named(fake_runs: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """An evaluation that no longer counts as done still has its metrics file: the page says of whom."""
    study = fake_runs(TWO, "[1.0, inf]").all().study
    old = study.run_id(Cell("uka", 1.0, 0))
    monkeypatch.setattr("dpdt.report.tables.evaluation_done", lambda _, run_id: run_id != old)
    write_report(study)
    text = page_text(study)
    assert "1 model was not evaluated on today's cohorts and shards with today's settings" in text
    assert f"then dpdt report . {old}" in text
    monkeypatch.setattr("dpdt.report.tables.evaluation_done", lambda *_: True)
    write_report(study)
    assert "not evaluated on today's" not in page_text(study)
