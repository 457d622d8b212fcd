"""Starts and amounts of data as axes of a study: which trainings there are, what each sees, what is said of them.

Right values are counted by hand, computed with hashlib, or taken from a study that has the same training and no axes.
"""

import hashlib
import json
import math
import re
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import roc_auc_score

from dpdt import api
from dpdt.base.files import read_json, write_json
from dpdt.base.vocabulary import LABELS
from dpdt.cohort.splits import normalise_patient_id
from dpdt.cohort.synthetic import make_hospitals
from dpdt.errors import PrivacyError, StudyError
from dpdt.evaluation.predict import wide
from dpdt.jobs.checks import check_deltas
from dpdt.jobs.plan import as_json, look_ahead
from dpdt.jobs.plan.measure import Speed
from dpdt.jobs.stages import run_stage
from dpdt.jobs.status import study_status
from dpdt.privacy.accounting import epsilon
from dpdt.report import provenance
from dpdt.report.apart.results import export_results
from dpdt.report.write import auc_table, write_report
from dpdt.runs.ancestors import ancestry
from dpdt.runs.read import model_runs, read_run
from dpdt.shards.dataset import load_split
from dpdt.study import BEFORE, Cell, Study, load_study
from dpdt.study.frozen import as_frozen, from_frozen
from dpdt.study.tasks import STAGES, choose, needs, tasks
from dpdt.tracking.payload import payload
from dpdt.training.networks.build import build_model
from dpdt.training.networks.check import check_model
from dpdt.training.train import pretrain, train
from tests.fake_runs import FakeRuns
from tests.small_data import MakeStudy

DOMAINS = '[domains.vindr]\nroot = "raw/vindr"\n[domains.uka]\nroot = "raw/uka"\n[domains.mimic]\nroot = "raw/mimic"\n'
STARTS = """
[initial.small]
width = 8
[initial.pretrained]
width = 8
pretrain = true
[initial.given]
width = 16
weights = "w.pt"
trained_on = ["imagenet"]
licence = "MIT"
"""
PARTS = "[train]\nfraction = [0.25, 1.0]\n"


pytestmark = pytest.mark.usefixtures("quick_figures")


def load(folder: Path, text: str) -> Study:
    (folder / "study.toml").write_text(text)
    return load_study(folder)


# ---- which trainings there are ----


def test_every_start_and_part_has_every_training_and_one_model_before(tmp_path: Path) -> None:
    study = load(tmp_path, DOMAINS + STARTS + PARTS)
    # 3 starts × 2 parts × 2 domains × 3 epsilons; random weights are no model before all trainings
    assert len(study.cells()) == len(set(study.cells())) == len(set(map(study.run_id, study.cells()))) == 36
    assert study.tested_models()[36:] == (Cell(BEFORE, 0.0, 0, "pretrained"), Cell(BEFORE, 0.0, 0, "given"))
    assert [task.label for task in tasks(study, "pretrain")] == ["pretrain mimic, pretrained"]
    assert tasks(study, "evaluate")[-2].label == "evaluate before, pretrained"
    assert tasks(study, "train")[0].label == "train vindr, small, 25% of patients, epsilon 1, seed 0"
    before = {task.label: {other.stage for other in others} for task, others in needs(study).items()}
    assert before["train uka, pretrained, no DP, seed 0"] == {"pretrain", "shards"}
    assert before["train uka, given, no DP, seed 0"] == {"shards"}
    thawed = from_frozen(json.loads(json.dumps(as_frozen(study))))
    assert list(map(thawed.run_id, thawed.tested_models())) == list(map(study.run_id, study.tested_models()))


def test_a_start_alone_has_the_very_training_of_a_study_without_axes(tmp_path: Path) -> None:
    study = load(tmp_path, DOMAINS + STARTS)
    plain = {
        "pretrained": load(tmp_path, DOMAINS + "[model]\nwidth = 8\n"),
        "given": load(tmp_path, DOMAINS + '[model]\nwidth = 16\ninit_weights = "w.pt"\n'),
    }
    for start, same in plain.items():
        view = study.starts[start]
        assert view.pretrain_run_id == same.pretrain_run_id
        for cell in same.cells():
            alone, among = same.run_id(cell), study.run_id(cell._replace(initial=start))
            assert among == alone.replace("-patient", f"-{start}-patient"), "the digest of all that decides is the same"
    assert not any(cell.recorded for cell in plain["given"].cells())


def test_a_part_of_the_patients_is_another_training_and_all_of_them_is_not(tmp_path: Path) -> None:
    whole = load(tmp_path, DOMAINS)
    assert load(tmp_path, DOMAINS + "[train]\nfraction = [1.0]\n").cells() == whole.cells()
    parts = load(tmp_path, DOMAINS + PARTS)
    assert {parts.run_id(cell) for cell in parts.cells() if cell.fraction == 1} == set(map(whole.run_id, whole.cells()))
    quarter = parts.run_id(Cell("uka", 1.0, 0, "", 0.25))
    assert quarter.startswith("uka-part0.25-patient-eps1-seed0-")
    assert quarter[-8:] != whole.run_id(Cell("uka", 1.0, 0))[-8:]
    assert parts.before_run_id == whole.before_run_id, "nobody of them was seen before"
    with pytest.raises(StudyError, match=r"no trainings from 50% of patients\. It has: 25% of patients; all patients"):
        parts.run_id(Cell("uka", 1.0, 0, "", 0.5))


def test_tasks_are_chosen_by_start_and_part(tmp_path: Path) -> None:
    study = load(tmp_path, DOMAINS + STARTS + PARTS)
    assert len(choose(study, "train", None, None, None, ["small"], [0.25])) == 6
    assert len(choose(study, "evaluate", None, None, None, ["given"])) == 13  # the model before, too
    assert len(choose(study, "pretrain", None, initials=["pretrained"])) == 1
    with pytest.raises(StudyError, match=r"train: initial big is not in the study, which has: small, pre"):
        choose(study, "train", None, initials=["big"])
    with pytest.raises(StudyError, match=r"train: fraction 0\.5 is not in the study, which has: 0\.25, 1\.0"):
        choose(study, "train", None, fractions=[0.5])


GIVEN = '[initial.a]\nweights = "w.pt"\n'
THEIRS = '[models.theirs]\nbundle = "b"\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GIVEN + 'trained_on = ["ImageNet", "UKA"]', r"initial\.a\.trained_on: 'UKA' is the domain uka of this study"),
        (GIVEN + 'trained_on = ["padchest"]', r"initial\.a\.trained_on: 'padchest' is the domain ours of this study"),
        ("[initial.a]\n[initial.b]\n", r"initial\.b: the same start as initial\.a\. Leave one of them out"),
        ("[model]\nwidth = 16\n[initial.a]\nwidth = 16\n[initial.b]\n", r"initial\.b: the same start as initial\.a"),
        ("[initial.a]\noptions = {depth = 1}\n", r"initial\.a\.options: only for your own network"),
        ('[initial.a]\nlicence = "MIT"\n', r"initial\.a: trained_on and licence belong to given weights, there"),
        ("[initial.before]\nwidth = 8\n", r"initial\.before: use plain letters, digits and _ only, and not 'before'"),
        ('[model]\ninit_weights = "w.pt"\n[initial.a]\n', r"model\.init_weights: the study has \[initial\.<name>\]"),
        ("[initial.a]\nwide = 8\n", r"initial\.a\.wide: unknown key"),
        ("[train]\nfraction = [0.5, 0.5]\n", r"train\.fraction: a value occurs twice in \[0\.5, 0\.5\]"),
        ("[train]\nfraction = [0.0]\n", r"train\.fraction: expected numbers above 0"),
        ("[train]\nfraction = 1.5\n", r"train\.fraction: expected numbers above 0 and up to 1"),
        ("[initial.a]\n" + THEIRS, r"models\.theirs\.initial: expected one of the study's starts, a; got none"),
        ("[initial.a]\nin_channels = 2\n", r"initial\.a\.in_channels: .*1 or 3.*, got 2"),
        ('[initial.a]\nnetwork = "convnext_tny"\n', r"initial\.a\.network: expected .*; perhaps 'convnext_tiny'"),
        ('[initial."bär"]\n', r"use plain letters"),
        ("[initial.a]\n[initial.A]\nwidth = 8\n", r"initial\.A: differs from initial\.a in case alone"),
        (THEIRS + 'initial = "a"\n', r"models\.theirs\.initial: the study has no \[initial"),
    ],
)
def test_what_cannot_be_is_refused_by_its_key(tmp_path: Path, text: str, message: str) -> None:
    ours = '[domains.ours]\nroot = "raw"\nkind = "padchest"\n'
    with pytest.raises(StudyError, match=message):
        load(tmp_path, DOMAINS + ours + text)


def test_without_dp_no_epsilon_is_at_stake_and_public_data_are_nobodys_secret(tmp_path: Path) -> None:
    seen = '[initial.a]\nweights = "w.pt"\ntrained_on = ["uka"]\n'
    load(tmp_path, DOMAINS + seen + "[privacy]\ntarget_epsilons = [inf]\n")
    load(tmp_path, DOMAINS + seen.replace("uka", "mimic"))
    with pytest.raises(StudyError, match=r"initial\.a\.pretrain: no domain has role = 'public'"):
        load(tmp_path, DOMAINS.replace("mimic", "chexpert") + "[initial.a]\npretrain = true\n")
    with pytest.raises(StudyError, match=r"train\.fraction: mimic is pretrained on, with all its patients"):
        load(tmp_path, DOMAINS + '[train]\ndomains = ["mimic"]\nfraction = 0.5\n[privacy]\ntarget_epsilons = [inf]\n')


def test_nothing_mixes_starts(tmp_path: Path) -> None:
    study = load(tmp_path, DOMAINS + STARTS)
    with pytest.raises(StudyError, match=r"several starts or amounts of data \(small; pretrained; given\)\. Take one"):
        auc_table(study, 1.0)
    with pytest.raises(StudyError, match=r"several starts or amounts of data"):
        export_results(study)
    assert auc_table(study.starts["given"], 1.0)[0] == ["trained on", "vindr", "uka"]


def test_another_hospitals_model_stands_beside_one_start_and_all_patients(tmp_path: Path) -> None:
    study = load(tmp_path, DOMAINS + STARTS + PARTS + THEIRS + 'initial = "given"\n')
    beside = [(view.start, view.fraction) for view in study.views if view.carried]
    assert beside == [("given", 1.0)]
    evaluated = [task.key for task in tasks(study, "evaluate")]
    assert evaluated.count("bundle-theirs") == 1
    assert study.of_run("bundle-theirs").start == "given"


# ---- parts of the patients ----

HALF = ("num_epochs = 5\n", "num_epochs = 5\nfraction = [0.5, 0.75, 1.0]\n")


def by_hand(patients: "pd.Series[str]", part: float) -> set[str]:
    """The patients of a part, as docs/evaluation.md has the rule: SHA-256 of seed, word and id, first 53 bits."""

    def place(patient: str) -> float:
        digest = hashlib.sha256(f"dpdt:0:part:{normalise_patient_id(patient)}".encode()).digest()
        return (int.from_bytes(digest[:8], "big") >> 11) / 2**53

    return {patient for patient in patients.unique() if place(patient) < part}


def test_a_smaller_part_is_in_a_larger_one_and_only_train_patients_are_left_out(make_study: MakeStudy) -> None:
    study = make_study(HALF)
    data = {view.fraction: load_split(view, "uka", "train") for view in study.views}
    seen = {part: set(found.frame["patient_id"]) for part, found in data.items()}
    assert seen[0.5] < seen[0.75] < seen[1.0]
    assert len(seen[1.0]) == 32, "four in five of 40"
    for part in (0.5, 0.75):
        assert seen[part] == by_hand(data[1.0].frame["patient_id"], part)
        assert data[part].num_units == len(seen[part]) == len(set(data[part].units))
    for split, domain in (("test", "uka"), ("train", "mimic")):
        assert len({len(load_split(view, domain, split)) for view in study.views}) == 1


def test_a_part_without_any_patient_is_said_to_be_too_small(make_study: MakeStudy) -> None:
    study = make_study(("num_epochs = 5\n", "num_epochs = 5\nfraction = 0.001\n"))
    whole = load_split(make_study(), "uka", "train").frame["patient_id"]
    assert by_hand(whole, 0.001) == set()
    said = r"train\.fraction: 0\.001 leaves no patient of uka to train on\. Make it larger\."
    with pytest.raises(StudyError, match=said):
        load_split(study, "uka", "train")
    with pytest.raises(StudyError, match=said):
        check_deltas(study, ["uka"])
    assert any(re.fullmatch(f"uka, .*: will be refused: {said}", line) for line in look_ahead(study).warnings)


def test_epsilon_is_accounted_with_the_units_of_the_part(make_study: MakeStudy) -> None:
    study = make_study(HALF, ("num_epochs = 2\n", "num_epochs = 1\n"))
    pretrain(study)
    cell = Cell("uka", 8.0, 0, "", 0.5)
    train(study, cell)
    patients = load_split(study.views[2], "uka", "train").frame["patient_id"]
    units = len(by_hand(patients, 0.5))
    assert 8 < units < 32
    paths = study.paths.run(study.run_id(cell))
    config, said = read_json(paths.config), read_json(paths.privacy)
    assert (config["fraction"], config["data"]["units"], said["num_units"]) == (0.5, units, units)
    assert config["sample_rate"] == said["sample_rate"] == pytest.approx(8 / units)
    assert config["num_steps"] == round(5 * units / 8)
    noise = said["accounted_noise_multiplier"]
    spent = epsilon(noise_multiplier=noise, sample_rate=8 / units, num_steps=config["num_steps"], delta=1e-3)
    assert said["epsilon"] == pytest.approx(spent)
    assert 7.5 < spent <= 8
    assert f"trained on {units} patients of uka (50% of its train patients) with" in said["paragraph"]
    assert said["selection"]["runs"] == 3, "of the three parts, which are on the same patients"
    assert said["selection"]["epsilon"] == 24.0
    run = read_run(study, study.run_id(cell))
    assert run is not None
    assert run.title == "uka · 50% of patients · patient ε=8 · seed 0"
    assert payload(run).params["training.fraction"] == "0.5"
    assert payload(run).params["training.units"] == str(units)


def test_delta_must_protect_the_patients_of_the_smallest_part(make_study: MakeStudy) -> None:
    study = make_study(HALF, ("delta = 1e-3", "delta = 0.035"))  # 1 / 32 is below it; all parts are refused
    with pytest.raises(PrivacyError, match="delta"):
        check_deltas(study, ["uka"])
    # 1 / 32 = 0.03125 is above 0.03, and one over half of them is, too; a delta between the two protects the half alone
    units = len(by_hand(load_split(study.views[2], "uka", "train").frame["patient_id"], 0.5))
    check_deltas(make_study(HALF, ("delta = 1e-3", "delta = 0.03")), ["uka"])
    assert 1 / units > 0.03
    train_of = make_study(HALF, ("delta = 1e-3", "delta = 0.04"), ('[domains.mimic]\nroot = "raw/mimic"\n', ""))
    assert 1 / 32 < 0.04 < 1 / units
    train(train_of, Cell("uka", 8.0, 0, "", 0.5))
    with pytest.raises(PrivacyError, match=r"privacy\.delta: 0\.04 is not below 1 / 32 patients"):
        train(train_of, Cell("uka", 8.0, 0))


def test_private_counts_of_labels_are_of_the_part(make_study: MakeStudy) -> None:
    counted = ("num_epochs = 5\n", 'num_epochs = 5\nclass_weights = "private"\n')
    study = make_study(HALF, counted, ("num_epochs = 2\n", "num_epochs = 1\n"))
    pretrain(study)
    cell = Cell("uka", math.inf, 0, "", 0.5)  # without DP they are exact
    train(study, cell)
    labels = load_split(study.at(cell), "uka", "train").labels
    exact = [(column == 0).sum() / (column == 1).sum() for column in labels.T]
    assert read_json(study.paths.run(study.run_id(cell)).config)["class_weights"] == pytest.approx(exact)


# ---- starts ----

STARTS_OF_WEIGHTS = """
[initial.fresh]
pretrain = true
[initial.given]
width = 16
weights = "w.pt"
pretrain = true
trained_on = ["imagenet"]
licence = "Apache-2.0"
[initial.direct]
width = 16
weights = "w.pt"
"""
TWO = ("[model]\nwidth = 8\n", "[model]\nwidth = 8\n" + STARTS_OF_WEIGHTS)


def given_weights(study: Study, *, width: int = 16, num_outputs: int = 1000) -> Path:
    """Weights as somebody else's, under torchvision's names, for other classes."""
    torch.manual_seed(3)
    settings = study.model.model_copy(update={"width": width})
    file = study.file.parent / "w.pt"
    torch.save(build_model(settings, num_outputs=num_outputs).state_dict(), file)
    return file


def test_each_start_trains_from_its_own_weights_and_its_statement_says_which(make_study: MakeStudy) -> None:
    study = make_study(TWO, ("num_epochs = 2\n", "num_epochs = 1\n"), ("num_epochs = 5\n", "num_epochs = 1\n"))
    given = given_weights(study)
    with pytest.raises(StudyError, match=r"has several starts\. Pretrain one of study\.views"):
        pretrain(study)
    run_stage(study, "pretrain")
    pretrained = [study.starts[name].pretrain_run_id for name in ("fresh", "given")]
    assert len(set(pretrained)) == 2
    of_file = read_json(study.paths.run(str(pretrained[1])).config)
    assert of_file["initial_weights"]["sha256"] == hashlib.sha256(given.read_bytes()).hexdigest()
    assert (of_file["initial"], of_file["settings"]["model"]["width"]) == ("given", 16)
    said: dict[str, dict[str, Any]] = {}
    for start, source in (("fresh", pretrained[0]), ("given", pretrained[1]), ("direct", "file w.pt")):
        cell = Cell("uka", 8.0, 0, start)
        train(study, cell)
        config = read_json(study.paths.run(study.run_id(cell)).config)
        assert (config["initial"], config["initial_weights"]["source"]) == (start, source)
        weights = torch.load(study.paths.run(study.run_id(cell)).weights)
        assert len(next(iter(weights.values()))) == (8 if start == "fresh" else 16)
        said[start] = read_json(study.paths.run(study.run_id(cell)).privacy)
    assert "It began" not in said["fresh"]["paragraph"], "dpdt pretrained it, from random weights"
    assert "trained on imagenet; licence Apache-2.0, as the study file says" in said["given"]["paragraph"]
    assert (
        f"it is not known how those were made beyond {pretrained[1]} (trained on mimic)" in said["given"]["paragraph"]
    )
    released = {one["what"]: one for one in said["given"]["other_releases"]}["initial weights"]
    assert released["source"].endswith("(trained on imagenet; licence Apache-2.0, as the study file says)")
    assert "it is not known how they began" in released["accounted"]
    assert "a file w.pt, and it is not known how those were made:" in said["direct"]["paragraph"]
    # two starts are trainings on the same patients: three at epsilon 8, whatever they began with
    assert [one["selection"]["epsilon"] for one in (said["direct"],)] == [24.0]


def test_the_audit_twin_and_the_notebook_know_the_start(make_study: MakeStudy) -> None:
    study = make_study(TWO)
    cell = Cell("uka", 8.0, 0, "direct")
    assert study.at(cell).audit_run_id(cell) == f"audit0-{study.run_id(cell)}"
    with pytest.raises(StudyError, match=r"no training \('uka', 8\.0, 0, 'nobody'\)\. It has: uka, fresh, epsilon 8"):
        api.train(study, "uka", target_epsilon=8.0, initial="nobody")


# ---- what is reported ----

AXES = """
[train]
fraction = [0.5, 1.0]
[initial.small]
width = 8
pretrain = true
[initial.large]
width = 16
pretrain = true
"""


@pytest.fixture
def trained(fake_runs: Callable[..., FakeRuns]) -> FakeRuns:
    """Two starts, two parts, two domains, three arms and the models before: 26 runs."""
    made = fake_runs(domains=("vindr", "uka"), more=AXES, public=True, epsilons="[1.0, 8.0, inf]")
    for cell in made.study.tested_models():
        made.train(cell)
    return made


def evaluate(made: FakeRuns) -> Callable[[Cell, str], float]:
    """Evaluations that differ in their scores; a model's macro AUC on a domain by scikit-learn, from those scores."""
    found: dict[tuple[Cell, str], float] = {}
    for number, cell in enumerate(made.study.tested_models()):

        def change(frame: pd.DataFrame, number: int = number) -> pd.DataFrame:
            shift = np.random.default_rng(number).normal(size=len(frame))
            return frame.assign(**{f"score_{label}": frame[f"score_{label}"] + 0.3 * shift for label in LABELS})

        paths = made.evaluate(cell, change=change)
        for domain in made.study.test_domains:
            frame = wide(pd.read_parquet(paths.predictions(domain)))
            aucs = [roc_auc_score(frame[f"target_{label}"], frame[f"score_{label}"]) for label in LABELS]
            found[cell, domain] = float(np.mean(aucs))
    return lambda cell, domain: found[cell, domain]


@pytest.mark.long
@pytest.mark.slow
def test_no_mean_and_no_comparison_of_the_report_mixes_two_starts_or_parts(trained: FakeRuns) -> None:
    study, macro_auc = trained.study, evaluate(trained)
    page = write_report(study).read_text()
    axes = pd.read_csv(study.paths.report / "axes.csv")
    assert len(axes) == 2 * 2 * 2 * 4
    for row in axes.to_dict("records"):
        on = row["scope"] == "on-domain"
        pairs = [(a, b) for a in ("vindr", "uka") for b in ("vindr", "uka") if (a == b) == on]
        before = [macro_auc(Cell(BEFORE, 0.0, 0, row["initial"]), b) for _, b in pairs]
        arm = (row["target_epsilon"], 0, row["initial"], row["fraction"])
        own = before if row["target_epsilon"] == 0 else [macro_auc(Cell(a, *arm), b) for a, b in pairs]
        assert row["auc"] == pytest.approx(np.mean(own), abs=1e-6)
        if row["target_epsilon"] > 0:
            assert row["gain"] == pytest.approx(np.mean(own) - np.mean(before), abs=1e-6)
            twin = [macro_auc(Cell(a, math.inf, *arm[1:]), b) for a, b in pairs]
            if math.isfinite(row["target_epsilon"]):
                assert row["difference_to_no_dp"] == pytest.approx(np.mean(own) - np.mean(twin), abs=1e-6)
    compared = pd.read_csv(study.paths.report / "comparisons.csv")
    compared = compared[compared["label"] == "average"]
    assert len(compared) == 4 * 2 * 2 * (2 + 3), "DP models with their twins, all with the model before"
    for row in compared.to_dict("records"):
        cell = Cell(row["train_domain"], row["target_epsilon"], 0, row["initial"], row["fraction"])
        other = cell._replace(target_epsilon=math.inf) if row["against"] else Cell(BEFORE, 0.0, 0, row["initial"])
        assert row["auc"] == pytest.approx(macro_auc(cell, row["test_domain"]), abs=1e-6)
        assert row["auc_against"] == pytest.approx(macro_auc(other, row["test_domain"]), abs=1e-6)
    names = ["small-part0.5", "small", "large-part0.5", "large"]
    assert all(f'href="views/{name}/index.html"' in page for name in names)
    assert sorted(path.name for path in (study.paths.report / "views").iterdir()) == sorted(names)
    assert {path.stem for path in (study.paths.report / "figures").iterdir()} == {
        "auc_over_fraction",
        "auc_over_parameters",
    }
    assert "a study · large, 50% of patients" in (study.paths.report / "views/large-part0.5/index.html").read_text()
    answers = (study.paths.report / "answer.txt").read_text().splitlines()
    assert {line.partition(": ")[0] for line in answers} == {
        "small, 50% of patients",
        "small",
        "large, 50% of patients",
        "large",
    }


def test_views_that_the_study_has_no_more_leave_no_page(trained: FakeRuns) -> None:
    write_report(trained.study)
    file = trained.study.file
    text = file.read_text().replace("fraction = [0.5, 1.0]", "")
    file.write_text(text.replace("[initial.large]\nwidth = 16\npretrain = true", ""))
    only = load_study(file)
    page = write_report(only)
    assert "a study · small" in page.read_text()
    assert not list((only.paths.report / "views").glob("*"))


def test_status_and_mlflow_name_start_and_part(trained: FakeRuns) -> None:
    rows = {row["key"]: row for row in study_status(trained.study) if row["stage"] == "train"}
    cell = Cell("uka", 1.0, 0, "large", 0.5)
    assert rows[trained.study.run_id(cell)]["task"] == "train uka, large, 50% of patients, epsilon 1, seed 0"
    run = model_runs(trained.study)[cell]
    assert run is not None
    sent = payload(run)
    assert (sent.params["training.initial"], sent.params["training.fraction"]) == ("large", "0.5")
    assert (sent.tags["dpdt.initial"], sent.name) == ("large", "uka · large · 50% of patients · patient ε=1 · seed 0")


def test_the_plan_counts_each_start_and_part_by_itself(tmp_path: Path) -> None:
    study = load(
        tmp_path, DOMAINS + AXES + "[shards]\nsize = 32\n[privacy]\ntarget_epsilons = [8.0, inf]\ndelta = 1e-6\n"
    )
    speeds = {
        f"{start}/{arm}": Speed(f"{start}/{arm}", ms, 0.0, 0.5, "2 CPU threads")
        for start, ms in (("small", 1.0), ("large", 4.0))
        for arm in ("plain", "private", "evaluate")
    }
    sizes = {"vindr": (10_000, 5_000), "uka": (10_000, 5_000), "mimic": (10_000, 10_000)}
    outlook = look_ahead(study, sizes=sizes, speeds=speeds)
    assert len(outlook.cells) == 2 + 16
    found = {(one.cell.initial, one.cell.fraction): one for one in outlook.cells if one.cell and one.cell.private}
    # 5,000 patients, a fifth tested, a tenth of the rest for val: 3,600, and half of them
    assert {key: one.units for key, one in found.items()} == {
        ("small", 0.5): 1800, ("small", 1.0): 3600, ("large", 0.5): 1800, ("large", 1.0): 3600
    }  # fmt: skip
    steps = round(80 * 1800 / 128)
    assert found["large", 0.5].sample_rate == pytest.approx(128 / 1800)
    assert found["large", 0.5].hours == pytest.approx(steps * 128 * 4 / 3.6e6)
    # 2 × 2,000 test images; of each start eight trainings and the model before
    assert outlook.evaluate_hours == pytest.approx(4000 * 9 * (1 + 4) / 3.6e6)
    widths = {name: sum(p.numel() for p in build_model(view.model).parameters()) for name, view in study.starts.items()}
    assert outlook.num_parameters == widths
    shown = as_json(outlook)["cells"][-1]["cell"]
    assert shown == {"domain": "uka", "target_epsilon": None, "seed": 0, "initial": "large"}


# ---- all of it, on made-up hospitals ----

WHOLE = """
[study]
folder = "out"
[domains.vindr]
root = "raw/vindr"
[domains.uka]
root = "raw/uka"
[domains.mimic]
root = "raw/mimic"
[shards]
size = 32
[pretrain]
num_epochs = 1
expected_batch_size = 16
[train]
num_epochs = 2
expected_batch_size = 16
device = "cpu"
[privacy]
target_epsilons = [1.0, 8.0, inf]
allow_large_delta = true
[evaluate]
bootstrap_draws = 20
min_subgroup_size = 5
[initial.narrow_mimic]
width = 8
pretrain = true
[initial.narrow_given]
width = 8
weights = "narrow.pt"
trained_on = ["somewhere else"]
[initial.wide_mimic]
width = 16
pretrain = true
[initial.wide_given]
width = 16
weights = "wide.pt"
trained_on = ["somewhere else"]
"""


@pytest.mark.long
@pytest.mark.slow
def test_two_networks_two_initialisations_two_domains_and_three_arms_to_the_report(tmp_path: Path) -> None:
    make_hospitals(tmp_path / "raw", patients={"vindr": 90, "uka": 90, "mimic": 90}, image_size=48)
    study = load(tmp_path, WHOLE)
    for name, width in (("narrow", 8), ("wide", 16)):
        given_weights(study, width=width, num_outputs=len(LABELS)).rename(tmp_path / f"{name}.pt")
    for stage in STAGES[:-1]:
        run_stage(study, stage)
    runs = model_runs(study)
    assert len(runs) == 2 * 2 * 2 * 3 + 4
    assert all(run is not None and run.metrics() is not None for run in runs.values())
    axes = pd.read_csv(study.paths.report / "axes.csv")
    assert axes["auc"].notna().all()
    assert sorted(axes["initial"].unique()) == sorted(study.initial)
    assert axes.groupby("initial")["num_parameters"].first().nunique() == 2
    for cell, run in runs.items():
        if run is not None and cell.private:
            said = run.privacy() or {}
            assert said["epsilon"] <= cell.target_epsilon
            # four starts at epsilon 1 and 8 on the same patients
            assert (said["selection"]["runs"], said["selection"]["epsilon"]) == (8, 4 * 9.0)
    assert all(row["state"] == "done" for row in study_status(study) if row["stage"] != "track")


def test_the_example_of_initialisations_is_planned(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    if find_spec("timm") is None:
        pytest.skip("timm of the extra `networks` is not installed")
    monkeypatch.setenv("CXR", str(tmp_path))
    study = load_study(Path(__file__).parent.parent / "examples" / "initialisations.toml")
    published = {  # images and patients, as the publishers count them
        "chestxray14": (112_120, 30_805),
        "chexpert": (223_414, 64_540),
        "padchest": (160_861, 67_625),
        "vindr": (18_000, 18_000),
        "mimic": (377_110, 65_379),
    }
    outlook = look_ahead(study, sizes=published)
    assert len(outlook.cells) == 4 * 4 * 3 + 2, "starts, domains and arms, and two pretrainings"
    assert not any(cell.refused for cell in outlook.cells)
    # Liu et al. 2022, table 9: 29 million with a head for 1,000 classes; He et al. 2016 and docs/paper.md: 4.9 million
    assert 27e6 < outlook.num_parameters["convnext_imagenet"] < 29e6
    assert 4.8e6 < outlook.num_parameters["resnet9_mimic"] < 5.0e6
    pixels = sum(images for images, _ in published.values()) * 224**2 / 1e9
    assert outlook.disk_gb is not None
    assert pixels < outlook.disk_gb < pixels + 64 * 28e6 * 4 * 8 / 1e9


def test_weights_of_this_hospital_s_own_patients_are_found_behind_a_pretraining(
    make_study: MakeStudy, tmp_path: Path
) -> None:
    """Of another study's run: a pretraining that begins from them is refused, so no DP training begins from it."""
    former = make_study(
        ("target_epsilons = [8.0, inf]", "target_epsilons = [inf]"), ("num_epochs = 5", "num_epochs = 1")
    )
    pretrain(former)
    cell = Cell("uka", math.inf, 0)
    assert train(former, cell).status == "finished"
    weights = former.paths.run(former.run_id(cell)).weights
    for folder in ("cohort", "shards"):
        shutil.copytree(former.folder / folder, tmp_path / "new" / folder)
    text = (tmp_path / "study.toml").read_text().replace('folder = "out"', 'folder = "new"')
    text = text.replace("target_epsilons = [inf]", "target_epsilons = [8.0]")
    (tmp_path / "new.toml").write_text(f'{text}\n[initial.given]\nweights = "{weights}"\npretrain = true\n')
    with pytest.raises(StudyError, match=r"was trained on uka \(run uka-"):
        pretrain(load_study(tmp_path / "new.toml"))


def test_what_a_run_recorded_of_its_ancestors_is_known_when_they_have_gone(tmp_path: Path) -> None:
    """A pretraining that began with a lost run's weights: the lost run is named, by what is in the config."""
    runs = tmp_path / "runs"
    recorded = {"run_id": "uka-1", "kind": "train", "domain": "uka", "target_epsilon": None}
    config = {
        "run_id": "pretrain-1",
        "domain": "mimic",
        "initial_weights": {"source": "file w.pt", "sha256": "0" * 64},
        "ancestry": {"runs": [recorded], "from_random": True},
    }
    (runs / "pretrain-1" / "checkpoints").mkdir(parents=True)
    write_json(runs / "pretrain-1" / "config.json", config)
    (runs / "pretrain-1" / "checkpoints" / "final.pt").write_bytes(b"weights")
    found = ancestry(runs / "pretrain-1" / "checkpoints" / "final.pt", runs=runs)
    assert [(run.paths.run_id, run.domain) for run in found.runs] == [("pretrain-1", "mimic"), ("uka-1", "uka")]
    assert found.from_random


def test_a_start_s_weights_and_frozen_parts_are_refused_by_the_start_s_own_keys(tmp_path: Path) -> None:
    missing = load(tmp_path, DOMAINS + '[initial.a]\nweights = "no.pt"\n')
    with pytest.raises(StudyError, match=r"no\.pt: no such file of weights\. Correct initial\.a\.weights"):
        check_model(missing)
    frozen = load(tmp_path, DOMAINS + '[initial.a]\n[initial.b]\npretrain = true\n[train]\nparameters = "head"\n')
    with pytest.raises(StudyError, match=r"random weights\. Give initial\.a weights or pretrain = true, leave it out"):
        check_model(frozen)


def test_the_page_of_a_part_counts_its_own_patients(make_study: MakeStudy, monkeypatch: pytest.MonkeyPatch) -> None:
    all_of_them = {("total", "", split): ("9", "9") for split in ("train", "test")}
    monkeypatch.setattr(provenance, "counted", lambda _: [provenance.Counted("uka", all_of_them, [], [])])
    study = make_study(("[train]\n", '[train]\ndomains = ["uka"]\nfraction = [0.5, 1.0]\n'))
    part, whole = sorted(study.views, key=lambda view: view.fraction)
    seen = load_split(part, "uka", "train").frame["patient_id"].nunique()
    assert 0 < seen < load_split(whole, "uka", "train").frame["patient_id"].nunique()
    assert provenance.people(part, []).startswith(f"{seen} patients of 1 hospital in training")
    assert provenance.people(whole, []).startswith("9 patients of 1 hospital in training")
