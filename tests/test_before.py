"""The model before all trainings: that it is tested once, stands beside the others, and what is said of it.

What its numbers ought to be is computed here: with scikit-learn, by hand, or by a simulation whose truth is known.
"""

import json
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import roc_auc_score

from dpdt.base.files import write_json
from dpdt.base.vocabulary import LABELS, SUBGROUPS
from dpdt.cohort.build import build_cohort
from dpdt.cohort.synthetic import make_hospitals
from dpdt.errors import StudyError
from dpdt.evaluation.evaluate import evaluate_run, evaluation_done
from dpdt.evaluation.metrics import auc_covariance
from dpdt.report import tables
from dpdt.report.from_csv import read_auc_table, write_published
from dpdt.report.gain import gains
from dpdt.report.grid import Grid
from dpdt.report.write import write_report
from dpdt.runs.progress import last_auc
from dpdt.runs.read import read_run
from dpdt.shards.build import build_shards
from dpdt.study import BEFORE, Cell, Study, load_study
from dpdt.study.frozen import as_frozen, from_frozen
from dpdt.study.tasks import choose, needs, tasks
from dpdt.tracking.metrics import final_values
from dpdt.tracking.payload import payload
from dpdt.training.networks.build import build_model
from tests.fake_runs import FakeRuns
from tests.test_report import page_text

Make = Callable[..., FakeRuns]
DOMAINS = '[domains.vindr]\nroot = "raw/vindr"\n[domains.uka]\nroot = "raw/uka"\n'
PUBLIC = '[domains.mimic]\nroot = "raw/mimic"\n'
TWO = ("vindr", "uka")


pytestmark = pytest.mark.usefixtures("quick_figures")


def load(folder: Path, text: str) -> Study:
    (folder / "study.toml").write_text(text)
    return load_study(folder)


# ---- which model it is, and once for all trainings ----


def test_it_is_the_pretraining_tested_once_for_all_domains_and_seeds(tmp_path: Path) -> None:
    study = load(tmp_path, "[train]\nseeds = [0, 1]\n" + DOMAINS + PUBLIC)
    assert study.before_run_id == study.pretrain_run_id
    assert len(study.cells()) == 2 * 3 * 2
    assert study.tested_models() == (*study.cells(), Cell(BEFORE, 0.0, 0))
    evaluated = tasks(study, "evaluate")
    assert len(evaluated) == 13
    assert (evaluated[-1].key, evaluated[-1].label) == (study.pretrain_run_id, "evaluate before")
    assert len(tasks(study, "train")) == 12
    names = {task.name for task in needs(study)[evaluated[-1]]}
    assert names == {f"pretrain-{study.pretrain_run_id}", "shards-mimic", "shards-vindr", "shards-uka"}
    assert evaluated[-1] in needs(study)[tasks(study, "report")[0]]


def test_naming_0_changes_nothing_where_there_is_such_a_model(tmp_path: Path) -> None:
    named = load(tmp_path, "[privacy]\ntarget_epsilons = [0, 1, inf]\n" + DOMAINS + PUBLIC)
    tacit = load(tmp_path, "[privacy]\ntarget_epsilons = [1, inf]\n" + DOMAINS + PUBLIC)
    assert named.tested_models() == tacit.tested_models()
    assert [named.run_id(cell) for cell in named.tested_models()] == [
        tacit.run_id(cell) for cell in tacit.tested_models()
    ]
    assert from_frozen(json.loads(json.dumps(as_frozen(named)))).tested_models() == named.tested_models()


def test_given_weights_have_a_run_of_their_own_that_follows_what_decides_them(tmp_path: Path) -> None:
    text = '[model]\ninit_weights = "a.pt"\n' + DOMAINS
    study = load(tmp_path, text)
    assert re.fullmatch("before-[0-9a-f]{8}", str(study.before_run_id))
    assert load(tmp_path, "[train]\nnum_epochs = 2\n" + text).before_run_id == study.before_run_id
    for other in (text.replace("a.pt", "b.pt"), "[shards]\nsize = 64\n" + text, "[study]\nseed = 1\n" + text):
        assert load(tmp_path, other).before_run_id != study.before_run_id


def test_random_weights_are_no_model_and_it_is_told(tmp_path: Path) -> None:
    study = load(tmp_path, DOMAINS)
    assert study.before_run_id is None
    assert study.tested_models() == study.cells()
    assert study.why_no_before == "trainings start from random weights"
    with pytest.raises(
        StudyError,
        match=r"privacy\.target_epsilons: 0 is the model before all trainings, and there is none: trainings start from "
        r"random weights\. Leave out 0, or add a domain with role = 'public', or model\.init_weights",
    ):
        load(tmp_path, "[privacy]\ntarget_epsilons = [0, 1, inf]\n" + DOMAINS)
    with pytest.raises(StudyError, match=r"target_epsilons: expected positive numbers beside 0, which is the model"):
        load(tmp_path, "[privacy]\ntarget_epsilons = [0]\n" + DOMAINS + PUBLIC)
    with pytest.raises(StudyError, match=r"target_epsilons: expected positive numbers \(inf for no DP\), got -1"):
        load(tmp_path, "[privacy]\ntarget_epsilons = [-1]\n" + DOMAINS + PUBLIC)


def test_public_data_may_still_not_be_trained_on_with_dp(tmp_path: Path) -> None:
    public = '[train]\ndomains = ["mimic"]\n' + DOMAINS + PUBLIC
    load(tmp_path, "[privacy]\ntarget_epsilons = [0, inf]\n" + public)
    with pytest.raises(StudyError, match=r"mimic, is pretrained on without DP"):
        load(tmp_path, "[privacy]\ntarget_epsilons = [0, 1]\n" + public)


def test_epsilon_0_chooses_its_evaluation_and_no_training(tmp_path: Path) -> None:
    study = load(tmp_path, DOMAINS + PUBLIC)
    assert [task.label for task in choose(study, "evaluate", None, [0.0], None)] == ["evaluate before"]
    assert len(choose(study, "evaluate", ["vindr"], None, None)) == 3
    with pytest.raises(StudyError, match=r"train: target epsilon 0\.0 is not in the study, which has: 1\.0, 8\.0, inf"):
        choose(study, "train", None, [0.0], None)


# ---- its evaluation, through real shards ----

SMALL = """
[domains.chexpert]
root = "raw/chexpert"
[domains.uka]
root = "raw/uka"
[shards]
size = 32
[model]
width = 8
init_weights = "given.pt"
[evaluate]
bootstrap_draws = 25
min_subgroup_size = 5
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two hospitals as shards, and weights with a head for the labels; nothing trained."""
    folder = tmp_path_factory.mktemp("given")
    study = load(folder, SMALL)
    make_hospitals(folder / "raw", domains=("chexpert", "uka"), patients=80, image_size=48)
    for domain in study.test_domains:
        build_cohort(study, domain)
        build_shards(study, domain)
    torch.manual_seed(0)
    torch.save(build_model(study.model).state_dict(), folder / "given.pt")
    return folder


@pytest.fixture
def given(base: Path, tmp_path: Path) -> Study:
    """A copy of it."""
    shutil.copytree(base, tmp_path / "study", ignore=shutil.ignore_patterns("raw"))
    return load_study(tmp_path / "study")


def test_given_weights_are_tested_everywhere_and_equal_scikit_learn(given: Study) -> None:
    run_id = str(given.before_run_id)
    paths = given.paths.run(run_id)
    assert not evaluation_done(given, run_id)
    said = evaluate_run(given, run_id)
    assert re.fullmatch(
        rf"{run_id}: [\d,]+ images of 2 domains, macro AUC before all trainings 0\.\d+ \(\d+ s\)", str(said)
    )
    assert evaluation_done(given, run_id)
    assert evaluate_run(given, run_id).skipped
    table = pd.read_parquet(paths.metrics)
    means = []
    for domain in given.test_domains:
        frame = pd.read_parquet(paths.predictions(domain))
        known = frame[frame["target"].notna()]
        aucs = [roc_auc_score(g["target"].astype(int), g["score"]) for _, g in known.groupby("label")]
        chosen = table[(table["test_domain"] == domain) & (table["metric"] == "auc") & (table["subgroup"] == "all")]
        found = chosen.set_index("label")["value"]
        assert found["average"] == pytest.approx(np.mean(aucs), abs=1e-12)
        means.append(np.mean(aucs))
    assert last_auc(paths, everywhere=True) == pytest.approx(np.mean(means), abs=1e-12)
    thresholds = table[table["metric"] == "threshold"]
    assert set(thresholds["reason"]) == {"weights from a file have no val"}
    run = read_run(given, run_id)
    assert run is not None
    assert (run.title, run.target_epsilon, run.private) == ("before · file given.pt", 0.0, False)


def test_another_file_of_weights_makes_everything_again(given: Study) -> None:
    run_id = str(given.before_run_id)
    evaluate_run(given, run_id)
    before = pd.read_parquet(given.paths.run(run_id).metrics)
    file = given.folder / "given.pt"
    torch.manual_seed(1)
    torch.save(build_model(given.model).state_dict(), file)
    assert not evaluation_done(given, run_id)
    assert not evaluate_run(given, run_id).skipped
    assert not pd.read_parquet(given.paths.run(run_id).metrics)["value"].equals(before["value"])
    file.unlink()  # to make room: what is gone cannot have become another
    assert evaluation_done(given, run_id)


def test_weights_without_a_head_are_no_model_and_the_reason_is_told(given: Study) -> None:
    file, run_id = given.folder / "given.pt", str(given.before_run_id)
    state = torch.load(file, weights_only=True)
    torch.save({name: value for name, value in state.items() if not name.startswith("fc.")}, file)
    why = f"given.pt has no head for the labels {', '.join(LABELS)}"
    assert str(evaluate_run(given, run_id)) == f"{run_id}: no model from before the trainings is tested: {why}"
    assert evaluation_done(given, run_id)
    assert not given.paths.run(run_id).metrics.exists()
    grid = Grid.of(given)
    assert (grid.before, grid.why_no_before) == (False, why)
    assert run_id not in dict(tables.missing_runs(given))


def test_weights_that_saw_the_patients_are_no_model_from_before(given: Study) -> None:
    file = given.folder / "runs" / "one" / "checkpoints" / "final.pt"
    file.parent.mkdir(parents=True)
    shutil.copy(given.folder / "given.pt", file)
    write_json(file.parent.parent / "config.json", {"run_id": "one", "domain": "uka"})
    study = load(given.folder, SMALL.replace("given.pt", "runs/one/checkpoints/final.pt"))
    said = evaluate_run(study, str(study.before_run_id))
    assert said.why_not == "final.pt was trained on uka itself (run one)"


# ---- an evaluated study that exists already ----


def test_a_study_that_was_evaluated_without_it_is_reported_as_before_and_says_how_to_get_it(fake_runs: Make) -> None:
    """The former version left no test of the pretraining: everything else stays, and one evaluation is missing."""
    runs = fake_runs(TWO, "[1.0, inf]", public=True)
    for cell in runs.study.tested_models():
        runs.train(cell)
    for cell in runs.study.cells():
        runs.evaluate(cell)
    study = runs.study
    write_report(study)
    text = page_text(study)
    assert f"{study.before_run_id} : trained, not evaluated yet" in text
    assert "is not known: the model before all trainings was not tested yet (dpdt evaluate)." in text
    auc = pd.read_csv(study.paths.report / "auc.csv")
    assert set(auc["target_epsilon"]) == {1.0, math.inf}
    comparisons = pd.read_csv(study.paths.report / "comparisons.csv")
    runs.evaluate(Cell(BEFORE, 0.0, 0))
    write_report(study)
    again = pd.read_csv(study.paths.report / "comparisons.csv")
    twins = again[again["against"] == math.inf].reset_index(drop=True)
    pd.testing.assert_frame_equal(twins, comparisons, check_dtype=False)  # corrected P values, too
    assert "not evaluated yet" not in page_text(study)


def test_a_report_without_such_a_model_says_why(fake_runs: Make) -> None:
    study = fake_runs(("vindr",), "[1.0, inf]").all().study
    write_report(study)
    assert "what DP keeps of it, is not known: trainings start from random weights." in page_text(study)
    assert pd.read_csv(study.paths.report / "gain.csv").empty
    assert "Where DP is worse than before" not in page_text(study)


# ---- the report ----


@pytest.fixture
def reported(fake_runs: Make) -> Study:
    study = fake_runs(TWO, "[1.0, 8.0, inf]", public=True).all().study
    write_report(study)
    return study


def macro(study: Study, epsilon: float, train_domain: str, test_domain: str) -> float:
    cell = Cell(train_domain if epsilon else BEFORE, epsilon, 0)
    table = pd.read_parquet(study.paths.run(study.run_id(cell)).metrics)
    wanted = {"test_domain": test_domain, "label": "average", "subgroup": "all", "metric": "auc"}
    return float(table[(table[list(wanted)] == pd.Series(wanted)).all(axis=1)]["value"].item())


def test_auc_csv_has_it_once_a_test_domain_at_epsilon_0(reported: Study) -> None:
    table = pd.read_csv(reported.paths.report / "auc.csv")
    rows = table[table["target_epsilon"] == 0]
    assert len(rows) == 2 * (len(LABELS) + 1) * (len(SUBGROUPS) + 1)
    assert set(rows["train_domain"]) == {BEFORE}
    assert set(table["privacy_unit"]) == {"patient"}
    chosen = rows[(rows["label"] == "average") & (rows["subgroup"] == "all")].set_index("test_domain")["auc"]
    for domain in TWO:
        assert chosen[domain] == pytest.approx(macro(reported, 0.0, BEFORE, domain), abs=1e-6)


def test_gain_and_share_are_those_of_the_models(reported: Study) -> None:
    table = pd.read_csv(reported.paths.report / "gain.csv").set_index(["scope", "target_epsilon"])
    pairs = {"on-domain": [(d, d) for d in TWO], "off-domain": [("vindr", "uka"), ("uka", "vindr")]}
    for scope, of_scope in pairs.items():
        mean = {e: np.mean([macro(reported, e, *pair) for pair in of_scope]) for e in (0.0, 1.0, 8.0, math.inf)}
        for epsilon in (1.0, 8.0, math.inf):
            row = table.loc[(scope, epsilon)]
            assert row["auc_before"] == pytest.approx(mean[0.0], abs=1e-5)
            assert row["gain"] == pytest.approx(mean[epsilon] - mean[0.0], abs=1e-5)
            assert row["gain_low"] <= row["gain"] <= row["gain_high"]
        share = (mean[1.0] - mean[0.0]) / (mean[math.inf] - mean[0.0])
        known = table.loc[(scope, math.inf), "gain_low"] > 0
        found = table.loc[(scope, 1.0), "share_kept"]
        assert found == pytest.approx(share, rel=1e-4) if known else math.isnan(found)
    assert math.isnan(table.loc[("on-domain", math.inf), "share_kept"])


def test_every_model_is_compared_with_it_by_the_same_tests(reported: Study) -> None:
    table = pd.read_csv(reported.paths.report / "comparisons.csv")
    labels = len(LABELS) + 1
    assert (table["against"] == 0).sum() == 3 * 4 * labels
    assert (table["against"] == math.inf).sum() == 2 * 4 * labels
    wanted = {"against": 0.0, "target_epsilon": 1.0, "train_domain": "uka", "test_domain": "vindr", "label": "healthy"}
    (row,) = table[(table[list(wanted)] == pd.Series(wanted)).all(axis=1)].to_dict("records")
    frames = [
        pd.read_parquet(reported.paths.run(reported.run_id(cell)).predictions("vindr"))
        for cell in (Cell("uka", 1.0, 0), Cell(BEFORE, 0.0, 0))
    ]
    first, second = (frame[frame["label"] == "healthy"] for frame in frames)
    aucs, _ = auc_covariance(first["target"].to_numpy(dtype=int), np.stack([first["score"], second["score"]]))
    assert row["auc"] == pytest.approx(aucs[0], abs=1e-5)
    assert row["auc_against"] == pytest.approx(aucs[1], abs=1e-5)
    family = table[(table["against"] == 0) & (table["target_epsilon"] == 1.0) & (table["label"] == "average")]
    # Holm 1979 by hand: the smallest P value times their number
    smallest = family["p"].idxmin()
    assert family.loc[smallest, "p_holm"] == pytest.approx(min(1, 4 * family.loc[smallest, "p"]), rel=1e-4)


def test_it_stands_beside_the_others_on_the_page_and_in_every_table(reported: Study) -> None:
    text = page_text(reported)
    assert "What private training brought, and what DP keeps of it" in text
    assert "Each model against its twin without DP, and against the one before" in text
    report = reported.paths.report
    names = {file.stem for file in (report / "figures").iterdir()}
    assert {f"auc_eps0_{label}" for label in ("average", *LABELS)} <= names
    curve = pd.read_csv(report / "epsilon_curve.csv")
    for scope, pairs in (("on-domain", TWO), ("off-domain", TWO[::-1])):
        of_scope = curve[(curve["target_epsilon"] == 0) & (curve["scope"] == scope)].set_index("train_domain")["auc"]
        for train_domain, test_domain in zip(TWO, pairs, strict=True):
            assert of_scope[train_domain] == pytest.approx(macro(reported, 0.0, BEFORE, test_domain), abs=1e-5)
    for name in ("subgroups", "fairness", "metrics"):
        assert (pd.read_csv(report / f"{name}.csv")["target_epsilon"] == 0).any(), name
    transfer = pd.read_csv(report / "transfer.csv").set_index(["target_epsilon", "test_domain"])
    fall = macro(reported, math.inf, "uka", "uka") - macro(reported, 0.0, BEFORE, "uka")
    assert transfer.loc[(1.0, "uka"), "macro_fall_before"] == pytest.approx(fall, abs=1e-5)
    assert "fall, before" in text
    assert (report / "tables" / "gain.tex").exists()


def test_the_heat_map_s_matrix_has_one_row(reported: Study) -> None:
    auc = tables.mean_over_seeds(reported, tables.auc_by_run(reported))
    matrix = tables.macro_matrix(Grid.of(reported), auc, 0.0)
    assert list(matrix.index) == [BEFORE]
    assert list(matrix.columns) == list(TWO)


def test_what_is_worse_than_before_is_listed_by_label_domain_and_group(fake_runs: Make) -> None:
    runs = fake_runs(TWO, "[1.0, inf]", public=True).all()

    def spoiled(frame: pd.DataFrame) -> pd.DataFrame:
        sign = np.where(frame["sex"] == "female", -1, 1)
        return frame.assign(**{f"score_{label}": sign * frame[f"score_{label}"] for label in LABELS})

    runs.evaluate(Cell("uka", 1.0, 0), change=spoiled)
    write_report(runs.study)
    table = pd.read_csv(runs.study.paths.report / "worse_than_before.csv")
    assert (table["difference"] < 0).all()
    assert set(table["target_epsilon"]) == {1.0}
    assert not ((table["label"] != "average") & (table["subgroup"] != "all")).any()
    wanted = {"train_domain": "uka", "test_domain": "uka", "label": "average", "subgroup": "female"}
    row = table[(table[list(wanted)] == pd.Series(wanted)).all(axis=1)]
    assert row["ci_high"].item() < 0
    assert "UKA-CXR → UKA-CXR macro AUC female" in page_text(runs.study)


def test_seeds_share_the_one_model_before(fake_runs: Make) -> None:
    study = fake_runs(("vindr",), "[1.0, inf]", public=True, more="[train]\nseeds = [0, 1]").all().study
    write_report(study)
    gain = pd.read_csv(study.paths.report / "gain.csv")
    on = gain[(gain["scope"] == "on-domain") & (gain["target_epsilon"] == 1.0)]
    assert on["gain_low"].item() <= on["gain"].item() <= on["gain_high"].item()
    by_run = pd.read_csv(study.paths.report / "auc_by_run.csv")
    assert set(by_run.loc[by_run["target_epsilon"] == 0, "run_id"]) == {study.pretrain_run_id}
    comparisons = pd.read_csv(study.paths.report / "comparisons.csv")
    assert set(comparisons.loc[comparisons["against"] == 0, "seed"]) == {0, 1}


# ---- MLflow and status ----


def test_mlflow_gets_it_as_the_pretraining_s_own_run_at_epsilon_0(reported: Study) -> None:
    run = read_run(reported, str(reported.before_run_id))
    assert run is not None
    news = payload(run)
    assert (news.params["target_epsilon"], news.params["train_domain"]) == ("0", "mimic")
    assert news.name == "mimic · public pretraining (before) · seed 0"
    assert news.tags["dpdt.arm"] == BEFORE
    assert "it has seen no private patient, so its epsilon is 0" in news.tags["mlflow.note.content"]
    points = {point.key: point.value for point in final_values(run, 0.0)[0]}
    mean = np.mean([macro(reported, 0.0, BEFORE, domain) for domain in TWO])
    assert points["auc"] == pytest.approx(mean)
    assert points["auc_off_domain"] == pytest.approx(mean)
    assert last_auc(run.paths, everywhere=True) == pytest.approx(mean)


# ---- published tables ----

TABLE = """target_epsilon,label,subgroup,train_domain,test_domain,auc
inf,average,all,a,a,0.90
inf,average,all,b,a,0.80
inf,average,all,a,b,0.81
inf,average,all,b,b,0.91
1,average,all,a,a,0.84
1,average,all,b,a,0.79
1,average,all,a,b,0.80
1,average,all,b,b,0.85
0,average,all,public,a,0.80
0,average,all,public,b,0.82
"""


def test_a_published_table_may_have_rows_of_epsilon_0(tmp_path: Path) -> None:
    file = tmp_path / "auc.csv"
    file.write_text(TABLE)
    html = write_published([file], tmp_path / "out").read_text(encoding="utf-8")
    table = pd.read_csv(tmp_path / "out" / "gain.csv").set_index(["scope", "target_epsilon"])
    # On-domain .905 without DP, .845 with it, .81 before: .035 of .095 is kept. Off-domain .805, .795 and again .81.
    assert table.loc[("on-domain", 1.0), "share_kept"] == pytest.approx(0.035 / 0.095, rel=1e-4)
    assert table.loc[("off-domain", 1.0), "gain"] == pytest.approx(-0.015)
    assert table.loc[("off-domain", 1.0), "why_no_share"] == "unknown"
    assert "What DP keeps of it: at the models&#39; own hospital 37\u00a0% with ε\u00a0=\u00a01;" in html
    repeated = (
        TABLE.replace("public,a", "a,a").replace("public,b", "a,b") + "0,average,all,b,a,0.80\n0,average,all,b,b,0.82\n"
    )
    file.write_text(repeated)
    again, grid = read_auc_table(pd.read_csv(file), "auc.csv")
    assert (again["target_epsilon"] == 0).sum() == 2
    assert grid.train_domains == ("a", "b")
    assert gains(grid, again)[1].gain == pytest.approx(0.845 - 0.81)


def test_rows_of_epsilon_0_are_one_model() -> None:
    frame = pd.DataFrame([line.split(",") for line in TABLE.splitlines()[1:]], columns=TABLE.splitlines()[0].split(","))
    twice = pd.concat([frame, frame[-1:].assign(train_domain="else", auc="0.5")])
    with pytest.raises(StudyError, match=r"at epsilon 0, average, all, b has several AUCs; expected one: the same"):
        read_auc_table(twice, "auc.csv")
    with pytest.raises(StudyError, match=r"expected rows of trained models beside those of epsilon 0, got none"):
        read_auc_table(frame[-2:], "auc.csv")
    with pytest.raises(StudyError, match=r"expected a number from 0, a band or inf, got '0-0'"):
        read_auc_table(frame.assign(target_epsilon="0-0"), "auc.csv")


def test_the_report_s_own_table_can_be_read_back(reported: Study, tmp_path: Path) -> None:
    write_published([reported.paths.report / "auc.csv"], tmp_path / "again")
    first = pd.read_csv(reported.paths.report / "gain.csv")
    second = pd.read_csv(tmp_path / "again" / "gain.csv")
    pd.testing.assert_frame_equal(first[["gain", "auc_before"]], second[["gain", "auc_before"]], atol=2e-5)
