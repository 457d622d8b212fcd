"""Results that leave a hospital, and several of them together: the numbers, what is left out, and what is told."""

import itertools
import json
import math
import re
import sqlite3
import stat
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score
from typer.testing import CliRunner

from dpdt.base.files import write_text
from dpdt.base.vocabulary import LABELS
from dpdt.cli import app
from dpdt.errors import BundleError, StudyError
from dpdt.evaluation.metrics import own_groups, papers_groups
from dpdt.report.apart import results as results_module
from dpdt.report.apart.combine import combine, combined_auc, disagreements
from dpdt.report.apart.file import Results, as_bytes, read_results
from dpdt.report.apart.results import export_results, left_out
from dpdt.report.apart.suppression import score_bins, shown_groups
from dpdt.report.tables import auc_by_run
from dpdt.runs.read import Run
from dpdt.study import load_study
from dpdt.study.settings import GroupSettings
from tests.fake_runs import FakeRuns

TWO = ("vindr", "uka")


@pytest.fixture
def exported(fake_runs: Callable[..., FakeRuns], monkeypatch: pytest.MonkeyPatch) -> tuple[FakeRuns, dict[str, Any]]:
    """Two hospitals' made-up results; the fake runs have no weights and no stamps."""
    made = fake_runs(TWO, "[8.0, inf]").all(change=probabilities)
    stubs(monkeypatch)
    return made, export_results(made.study)


def as_text(results: dict[str, Any]) -> str:
    return as_bytes(results).decode()


def stubs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results_module, "evaluation_done", lambda *_: True)
    monkeypatch.setattr("dpdt.report.tables.evaluation_done", lambda *_: True)
    monkeypatch.setattr(results_module, "run_weights", lambda _, run: {run.run_id: np.zeros(1, np.float32)})


def probabilities(frame: pd.DataFrame) -> pd.DataFrame:
    scores = {f"score_{label}": 1 / (1 + np.exp(-frame[f"score_{label}"])) for label in LABELS}
    return frame.assign(**scores)


def read(tmp_path: Path, found: dict[str, Any], name: str = "r.json") -> Results:
    (tmp_path / name).write_text(as_text(found))
    return read_results(tmp_path / name)


def test_the_aucs_are_those_of_the_study_and_their_errors_those_of_hanley_and_mcneil_about(
    exported: tuple[FakeRuns, dict[str, Any]],
) -> None:
    made, found = exported
    models = {m["model"]: (m["train_domain"], m["target_epsilon"] or math.inf) for m in found["models"]}
    there = auc_by_run(made.study).set_index(["train_domain", "target_epsilon", "test_domain", "label", "subgroup"])
    assert len(found["auc"]) > 100
    for row in found["auc"]:
        of_study = there.loc[(*models[row["model"]], row["test_domain"], row["label"], row["subgroup"])]
        assert row["auc"] == of_study["auc"]
        assert (row["ci_low"], row["ci_high"]) == (of_study["ci_low"], of_study["ci_high"])
        if row["label"] != "average":
            a, m, n = row["auc"], row["n_positive"], row["n"] - row["n_positive"]
            q1, q2 = a / (2 - a), 2 * a * a / (1 + a)  # Hanley & McNeil, Radiology 143 (1982)
            hanley = math.sqrt((a * (1 - a) + (m - 1) * (q1 - a * a) + (n - 1) * (q2 - a * a)) / (m * n))
            assert 0.6 < row["standard_error"] / hanley < 1.5


def test_no_patient_no_image_and_no_path_is_in_it(exported: tuple[FakeRuns, dict[str, Any]]) -> None:
    made, found = exported
    text = as_text(found)
    assert "SECRET" not in text
    assert str(made.study.folder) not in text
    assert "raw/" not in text
    assert "seed" not in json.dumps(found["evaluation"])  # it decides the split


def test_every_number_of_the_file_can_be_read_before_it_leaves(
    exported: tuple[FakeRuns, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, found = exported
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["results", "export", str(made.study.file), "--show", "--output", "out.json"])
    assert done.exit_code == 0, done.output
    assert json.loads((tmp_path / "out.json").read_text()) | {"sha256": ""} == found | {"sha256": ""}
    assert stat.S_IMODE((tmp_path / "out.json").stat().st_mode) == 0o600
    numbers = re.findall(r"-?\d+\.\d+(?:e-?\d+)?", (tmp_path / "out.json").read_text())
    assert len(numbers) > 500
    assert [number for number in numbers if number not in done.output] == []
    assert "No noise was added" in done.output


def frame_of(rows: list[tuple[str, str, int, str]]) -> pd.DataFrame:
    """Images as (patient, sex, target, age group)."""
    return pd.DataFrame(rows, columns=["patient_key", "sex", "target_x", "age_group"])


def shown_of(rows: list[tuple[str, str, int, str]]) -> set[str]:
    frame = frame_of(rows)
    return shown_groups(frame, "x", papers_groups(frame), 10)


def test_a_group_of_few_patients_is_left_out_however_many_images_they_have() -> None:
    rows = [(f"p{n}", "male", n % 2, "age_40_70") for n in range(60)]
    rows += [(f"q{n % 12}", "female", n % 2, "age_0_40") for n in range(120)]  # 6 patients of each class
    rows += [(f"r{n}", "male", n % 2, "age_70_100") for n in range(60)]
    assert shown_of(rows) == {"all", "age_40_70"}


def test_what_is_left_out_cannot_be_computed_from_the_rest() -> None:
    """Whole less shown is never a few patients: here 4 women of each class would be 48 less 44 men."""
    rows = [(f"p{n}", "male", n % 2, "age_40_70") for n in range(88)]
    rows += [(f"q{n}", "female", n % 2, "age_40_70") for n in range(8)]
    assert shown_of(rows) == {"all", "age_40_70"}
    rows = [(f"p{n}", "male", n % 2, "age_0_40") for n in range(80)]
    rows += [(f"q{n}", "female", n % 2, "age_40_70") for n in range(80)]
    rows += [(f"r{n}", "unknown", n % 2, "unknown") for n in range(6)]  # 3 of each class in no group
    shown = shown_of(rows)
    assert len(shown & {"male", "female"}) == 1
    assert len(shown & {"age_0_40", "age_40_70"}) == 1


def test_a_label_with_few_positive_patients_leaves_with_no_number_at_all() -> None:
    rows = [(f"p{n}", "male", int(n < 9), "age_0_40") for n in range(100)]
    assert shown_of(rows) == set()


@pytest.mark.parametrize("seed", range(30))
def test_over_random_hospitals_the_rest_is_never_small(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(30, 300))
    frame = pd.DataFrame(
        {
            "patient_key": rng.integers(0, n, n).astype(str),
            "sex": rng.choice(["male", "female", "unknown"], n, p=rng.dirichlet([1, 1, 0.2])),
            "age_group": rng.choice(
                ["age_0_40", "age_40_70", "age_70_100", "unknown"], n, p=rng.dirichlet([1, 1, 1, 0.2])
            ),
            "target_x": rng.choice([0, 1, np.nan], n, p=rng.dirichlet([1, 1, 0.3])),
        }
    )
    shown = shown_groups(frame, "x", papers_groups(frame), 10)
    for attribute, names in (("sex", ("female", "male")), ("age_group", ("age_0_40", "age_40_70", "age_70_100"))):
        out = shown & set(names)
        for part in [
            *(frame[frame[attribute] == name] for name in out),
            frame[~frame[attribute].isin(out)] if out else frame[:0],
        ]:
            for value in (0, 1):
                count = part.loc[part["target_x"] == value, "patient_key"].nunique()
                assert count == 0 or count >= 10 or not out


def small_sets(shown: dict[str, Any], target: Any, minimum: int) -> list[tuple[int, ...]]:
    """All sets of images that sums and differences of shown counts give and that have few positives or negatives.

    By trying every union of atoms: another way than the code under test. Each image is of one patient here.
    """
    table = np.stack(list(shown.values())).astype(float)
    atoms, of_image = np.unique(table, axis=1, return_inverse=True)
    counts = [np.bincount(of_image.ravel(), weights=target == value, minlength=atoms.shape[1]) for value in (0, 1)]
    found = []
    for union in itertools.product((0, 1), repeat=atoms.shape[1]):
        of_union = [float(count @ union) for count in counts]
        if not any(0 < count < minimum for count in of_union):
            continue
        coefficients = np.linalg.lstsq(atoms.T, np.array(union, dtype=float), rcond=None)[0]
        if np.allclose(atoms.T @ coefficients, union, atol=1e-7):
            found.append(union)
    return found


def test_two_cuts_of_one_column_cannot_be_taken_from_each_other() -> None:
    """Fewer than 20 years less fewer than 18 years: 6 patients, of which nobody named a group."""
    ages = np.array([*range(0, 18)] * 8 + [18, 19] * 3 + [*range(20, 80)] * 4)
    frame = pd.DataFrame({"patient_key": np.arange(len(ages)).astype(str), "target_x": np.arange(len(ages)) // 18 % 2})
    cuts = {"child": (0.0, 18.0, 80.0), "minor": (0.0, 20.0, 80.0)}
    settings = {name: GroupSettings(column="age_years", cuts=edges) for name, edges in cuts.items()}
    groups = own_groups(settings, pd.DataFrame({"age_years": ages}))
    assert shown_groups(frame, "x", groups, 10) == {"all", "child_0_18", "child_18_80"}


def test_a_crossing_is_not_the_rest_of_its_group() -> None:
    """Ward a has 40 men and 8 women: the women are ward a less its men, so the men of ward a do not leave."""
    rows = [("a", "male")] * 40 + [("a", "female")] * 8 + [("b", "male")] * 40 + [("b", "female")] * 40
    cohort = pd.DataFrame(rows, columns=["ward", "sex"])
    frame = pd.DataFrame({"patient_key": np.arange(len(rows)).astype(str), "target_x": np.arange(len(rows)) % 2})
    settings = {"sex": GroupSettings(column="sex"), "ward": GroupSettings(column="ward")}
    settings["both"] = GroupSettings(crossing=("sex", "ward"))
    shown = shown_groups(frame, "x", own_groups(settings, cohort), 10)
    # both wards and sexes are large; of the crossings none may leave: each gives the other three by subtraction
    assert shown == {"all", "female", "male", "ward_a", "ward_b"}


@pytest.mark.parametrize("seed", range(40))
def test_over_random_groups_nothing_small_can_be_computed_from_what_is_shown(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(40, 250))
    cohort = pd.DataFrame(
        {
            "sex": rng.choice(["male", "female", ""], n, p=[0.5, 0.45, 0.05]),
            "ward": rng.choice(["a", "b", "c", ""], n, p=rng.dirichlet([2, 1, 1, 0.3])),
            "age_years": rng.integers(0, 60, n),
        }
    )
    cohort["house"] = np.where(cohort["ward"].isin(["a", "b"]), "north", "south")
    cuts = {"age": (0.0, 30.0, 60.0), "other": (0.0, float(rng.integers(28, 33)), 60.0)}
    settings = {name: GroupSettings(column="age_years", cuts=edges) for name, edges in cuts.items()}
    settings |= {name: GroupSettings(column=name) for name in ("sex", "ward", "house")}
    settings |= {"both": GroupSettings(crossing=("sex", "ward"))}
    frame = pd.DataFrame({"patient_key": np.arange(n).astype(str), "target_x": rng.integers(0, 2, n)})
    groups = own_groups(settings, cohort)
    shown = shown_groups(frame, "x", groups, 10)
    used = {name: groups.masks[name] for name in shown}
    while len(np.unique(np.stack(list(used.values())), axis=1).T) > 14:  # 2^14 unions are tried
        used.popitem()
    assert small_sets(used, frame["target_x"].to_numpy(), 10) == []
    assert len(shown) > 3 or n < 150


def test_bins_have_enough_patients_and_give_the_curve_back() -> None:
    rng = np.random.default_rng(0)
    target = rng.integers(0, 2, 4000)
    score = 1 / (1 + np.exp(-(rng.normal(size=4000) + target)))
    bins = score_bins(target, score, np.arange(4000).astype(str), 10)
    assert bins[0]["low"] == 0
    assert bins[-1]["high"] == 1
    assert sum(b["n"] for b in bins) == 4000
    assert min(min(b["n_positive"], b["n"] - b["n_positive"]) for b in bins) >= 10
    middle = np.concatenate([np.full(b["n"], b["mean_score"]) for b in bins])
    sides = np.concatenate([np.r_[np.ones(b["n_positive"]), np.zeros(b["n"] - b["n_positive"])] for b in bins])
    assert abs(roc_auc_score(sides, middle) - roc_auc_score(target, score)) < 0.005
    assert score_bins(target[:9], score[:9], np.arange(9).astype(str), 10) == []


def test_no_number_of_a_small_label_leaves_and_no_average_over_it(
    fake_runs: Callable[..., FakeRuns], monkeypatch: pytest.MonkeyPatch
) -> None:
    def few(frame: pd.DataFrame) -> pd.DataFrame:
        frame = probabilities(frame)
        target = np.zeros(len(frame))
        target[:24] = 1  # twelve patients of two images
        return frame.assign(target_pneumonia=target)

    made = fake_runs(("uka",), "[8.0, inf]").all(change=few)
    stubs(monkeypatch)
    found = export_results(made.study, minimum=13)
    assert "pneumonia" not in {row["label"] for row in (*found["auc"], *found["bins"])}
    # with 12 positive patients the label is in the study's own macro AUC, which would give it away
    assert not [row for row in found["auc"] if "pneumonia" in row["labels"]]
    assert not [row for row in found["auc"] if row["label"] == "average" and row["subgroup"] == "all"]
    assert found["pairs"] == []
    stays = left_out(made.study, found)  # what the hospital's person is told
    why = "(few patients, or it would give away few)"
    assert f"uka, pneumonia: all, female, male, age_0_40, age_40_70, age_70_100 {why}" in stays
    assert [line for line in stays if line.startswith("uka, average: all") and line.endswith(why)]
    assert not [
        line for line in stays if "all" in line and not line.startswith(("uka, pneumonia: all", "uka, average: all"))
    ]
    assert "pneumonia" in {row["label"] for row in export_results(made.study, minimum=12)["auc"]}
    with pytest.raises(StudyError, match="--minimum: expected at least 10 patients of each class, got 3"):
        export_results(made.study, minimum=3)


def test_a_site_renames_its_one_domain(fake_runs: Callable[..., FakeRuns], monkeypatch: pytest.MonkeyPatch) -> None:
    made = fake_runs(("uka",), "[inf]").all(change=probabilities)
    stubs(monkeypatch)
    found = export_results(made.study, site="st_mary")
    assert "uka" not in as_text({**found, "policies": {}})
    for bad in ("Charité", "../x", "=1+1", "St. Mary", "all", "before"):
        with pytest.raises(StudyError, match="--site: expected a letter"):
            export_results(made.study, site=bad)


def test_of_several_domains_the_site_names_the_hospital_and_what_stays_is_told_by_domain(
    fake_runs: Callable[..., FakeRuns], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def few(frame: pd.DataFrame) -> pd.DataFrame:
        frame = probabilities(frame)
        small = np.arange(len(frame)) < 24  # twelve patients of two images
        return frame.assign(target_pneumonia=np.where(small, 1.0, 0.0)) if next(turns) else frame

    turns = itertools.cycle([False, True])  # vindr, uka
    made = fake_runs(TWO, "[8.0, inf]").all(change=few)
    stubs(monkeypatch)
    found = export_results(made.study, site="hvp", minimum=13)
    assert found["site"] == "hvp"
    assert set(found["policies"]) == set(TWO)
    sent = {(row["test_domain"], row["label"]) for row in found["auc"] if row["subgroup"] == "all"}
    stays = left_out(made.study, found)
    told = {tuple(line.partition(":")[0].split(", ")) for line in stays if line.partition(": ")[2].startswith("all")}
    assert told == {("uka", "pneumonia"), ("uka", "average")}
    assert not told & sent
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["results", "export", str(made.study.file), "--output", "o.json"])
    assert "The file says site vindr, the first of 2 domains: --site names all." in " ".join(done.output.split())


def apart(fake_runs: Callable[..., FakeRuns], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The two hospitals' files, as if each had tested all models on its own patients."""
    made = fake_runs(TWO, "[8.0, inf]").all(change=probabilities)
    stubs(monkeypatch)
    whole = export_results(made.study)
    keys = ("auc", "bins", "pairs")
    return [
        {**whole, "site": name, **{key: {name: whole[key][name]} for key in ("policies", "definitions")}}
        | {key: [row for row in whole[key] if row["test_domain"] == name] for key in keys}
        for name in TWO
    ]


def test_together_they_are_the_pooled_study(
    fake_runs: Callable[..., FakeRuns], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = [read(tmp_path, part, f"{part['site']}.json") for part in apart(fake_runs, tmp_path, monkeypatch)]
    frame = combined_auc(parts).set_index(["target_epsilon", "train_domain", "test_domain", "label", "subgroup"])
    pooled = auc_by_run(load_study(tmp_path)).set_index(frame.index.names)
    assert len(frame) > 100
    for key, row in frame.iterrows():
        there = pooled.loc[key]
        assert abs(row["auc"] - there["auc"]) < 1e-12
        assert (row["ci_low"], row["ci_high"]) == (there["ci_low"], there["ci_high"])
    assert disagreements(parts) == []


def test_the_report_names_what_is_missing_and_what_was_not_done_alike(
    fake_runs: Callable[..., FakeRuns], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = apart(fake_runs, tmp_path, monkeypatch)
    number = next(m["model"] for m in two["models"] if m["train_domain"] == "vindr" and m["target_epsilon"] is None)
    two["auc"] = [row for row in two["auc"] if row["model"] != number]
    two["policies"] = {"uka": {**two["policies"]["uka"], "uncertain": "positive"}}
    two["input"] = {**two["input"], "recipe": "paper"}
    two["versions"] = {**two["versions"], "dpdt": "9.9", "png": "<script>\x1b[2J"}
    two["models"] = [{**m, "weights_sha256": "f" * 64} if m["model"] == 0 else m for m in two["models"]]
    files = [tmp_path / "one.json", tmp_path / "two.json"]
    for file, part in zip(files, (one, two), strict=True):
        file.write_text(as_text(part))
    page = combine([read_results(file) for file in files], tmp_path / "together").read_text(encoding="utf-8")
    assert "<script" not in page
    assert "\x1b" not in page
    for sentence in (
        "version, png: None at vindr, &lt;script&gt;\ufffd[2J at uka",
        "<code>vindr, no DP</code>: no number on uka",
        "labels&#39; policy, uncertain: paper at vindr, positive at uka",
        "preprocessing, recipe: area at vindr, paper at uka",
        "version, dpdt: 0.1.0 at vindr, 9.9 at uka",
        "weights_sha256 is",
    ):
        assert sentence in page
    auc = pd.read_csv(tmp_path / "together" / "auc.csv")
    assert {"ci_low", "ci_high"} <= set(auc.columns)
    assert (tmp_path / "together" / "figures" / "auc_eps8_average.png").exists()
    assert (tmp_path / "together" / "models.csv").exists()


def many(site: str, *, seed: int) -> dict[str, Any]:
    """A made-up hospital's results: 28 labels and the groups of a study of its own, of four models."""
    rng = np.random.default_rng(seed)
    labels = [*LABELS, "unhealthy", *(f"finding_{number:02d}" for number in range(22))]
    groups = ["all", *(f"ward_{ward}" for ward in ("icu", "general", "emergency")), *(f"maker_{k}" for k in range(8))]
    cells = [(domain, epsilon) for domain in ("north", "south") for epsilon in (8.0, None)]
    models = [
        {"model": k, "train_domain": domain, "target_epsilon": epsilon, "seed": 0, "unit": "patient"}
        | {"epsilon": epsilon, "delta": epsilon and 1e-5, "weights_sha256": f"{k + 1}" * 64, "carried": domain != site}
        for k, (domain, epsilon) in enumerate(cells)
    ]
    auc = []
    for model, label, group in itertools.product(range(4), [*labels, "average"], groups):
        value = float(rng.uniform(0.6, 0.9))
        head = {"model": model, "test_domain": site, "label": label, "subgroup": group, "auc": value}
        counts = {"n": None, "n_positive": None} if label == "average" else {"n": 200, "n_positive": 50}
        over = ",".join(labels) if label == "average" else ""
        auc.append(
            {**head, "ci_low": value - 0.05, "ci_high": value + 0.05, "standard_error": 0.02, **counts, "labels": over}
        )
    empty: dict[str, Any] = {"format": 1, "bins": [], "pairs": [], "input": {}, "versions": {}, "evaluation": {}}
    own = {"policies": {site: {}}, "definitions": {site: dict.fromkeys(labels, f"own list, {site}")}}
    named = {"site": site, "synthetic": True, "minimum": 10, "noise": "none", "labels": labels}
    return {**empty, **named, **own, "models": models, "auc": auc}


def test_nothing_of_many_labels_and_other_groups_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dpdt.report.canvas.DPI", 40)
    files = [tmp_path / f"{site}.json" for site in ("north", "south")]
    sent = [many(file.stem, seed=number) for number, file in enumerate(files)]
    for file, results in zip(files, sent, strict=True):
        file.write_text(as_text(results))
    page = combine([read_results(file) for file in files], tmp_path / "together").read_text(encoding="utf-8")
    assert "SYNTHETIC DATA" in page
    auc = pd.read_csv(tmp_path / "together" / "auc.csv")
    keys = ["train_domain", "target_epsilon", "test_domain", "label", "subgroup"]
    there = auc.set_index(keys)["auc"].to_dict()
    assert len(auc) == len(there) == 2 * 4 * 29 * 12
    for row in (row for results in sent for row in results["auc"]):
        model = sent[0]["models"][row["model"]]
        key = (model["train_domain"], model["target_epsilon"] or math.inf, *(row[name] for name in keys[2:]))
        assert there[key] == pytest.approx(row["auc"], abs=1e-6)  # the file has six decimals
    text = re.sub(r"data:image/png;base64,[^\"]+", "", page)
    for name in ("ward emergency", "maker 7"):
        assert name in text
    assert "definition of 28 labels" in text


def test_a_model_under_two_names_is_one_with_its_numbers_at_both_hospitals(tmp_path: Path) -> None:
    """The bundle was made with `--site hvp`, and the results of the hospital call it hvp_2022."""
    home, away = many("hvp_2022", seed=0), many("clinica", seed=1)
    for part, name in ((home, "hvp_2022"), (away, "hvp")):
        part["models"] = [
            {**model, "train_domain": name, "carried": name == "hvp"}
            for model in part["models"]
            if model["train_domain"] == "north"
        ]
        part["auc"] = [row for row in part["auc"] if row["model"] < 2]
    parts = [read(tmp_path, part, f"{part['site']}.json") for part in (away, home)]  # also where the bundle comes first
    page = combine(parts, tmp_path / "together").read_text(encoding="utf-8")
    assert "no number on" not in page
    told = "models hvp of clinica: their weights are those of hvp_2022, so they have that name here"
    assert told in page
    models = pd.read_csv(tmp_path / "together" / "models.csv")
    assert models["trained on"].tolist() == ["hvp_2022", "hvp_2022"]
    frame = combined_auc(parts)
    assert set(zip(frame["train_domain"], frame["test_domain"], strict=True)) == {
        ("hvp_2022", "clinica"),
        ("hvp_2022", "hvp_2022"),
    }


def test_weights_that_were_given_are_the_same_model_only_where_the_file_is(
    fake_runs: Callable[..., FakeRuns], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = apart(fake_runs, tmp_path, monkeypatch)
    paths = fake_runs(TWO, "[inf]").study.paths.run("before")
    config = {"kind": "before", "domain": "before", "seed": 0, "target_epsilon": 0.0}
    for part, digit in ((one, "a"), (two, "b")):
        run = Run(paths, config | {"initial_weights": {"source": "file w.pt", "sha256": digit * 64}}, {})
        part["models"] = [*part["models"], results_module._model(load_study(tmp_path), run, 99, {})]
        part["auc"] = [*part["auc"], {**part["auc"][0], "model": 99}]
    told = disagreements([read(tmp_path, part) for part in (one, two)])
    assert "the models before all trainings are not the same, so none is shown" in told


def test_two_results_of_one_domain_are_refused(exported: tuple[FakeRuns, dict[str, Any]], tmp_path: Path) -> None:
    one = read(tmp_path, exported[1])
    with pytest.raises(BundleError, match="two results are of the test domain"):
        combined_auc([one, one])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d | {"format": 3}, "results of format 3; this dpdt reads up to 2"),
        (lambda d: d | {"format": 2}, "exact numbers beside a guarantee for test patients, or noise without one"),
        (lambda d: d | {"patients": [1]}, "patients: Extra inputs are not permitted"),
        (lambda d: d | {"auc": [{**d["auc"][0], "auc": 1.5}]}, r"auc.0.auc: Input should be less than or equal to 1"),
        (lambda d: d | {"auc": [{**d["auc"][0], "model": 99}]}, "numbers of a model that it does not name"),
        (lambda d: d | {"site": "../x"}, "site"),
        (lambda d: d | {"auc": [{**d["auc"][0], "auc": 2.0}]}, "less than or equal to 1"),
        (lambda d: d | {"auc": [{**d["auc"][0], "n": -1}]}, "auc.0.n: Input should be greater than or equal to 0"),
        (lambda d: d | {"auc": [{**d["auc"][0], "n": 10**30}]}, "auc.0.n: Input should be less than or equal to"),
        (lambda d: d | {"auc": [d["auc"][0]] * 2}, "two AUCs of one cell"),
        (lambda d: d | {"models": [d["models"][0], {**d["models"][0], "model": 1}, *d["models"][2:]]}, "of one name"),
        (lambda d: d | {"auc": [{**d["auc"][0], "test_domain": "charite"}]}, "a number of charite, average"),
        (lambda d: d | {"auc": [{**d["auc"][9], "label": "edema"}]}, "edema, which it does not describe"),
        (lambda d: d | {"auc": [{**d["auc"][0], "labels": "edema"}]}, "an average over labels that it does not"),
        (lambda d: d | {"auc": [{**d["auc"][0], "labels": "<script>"}]}, "auc.0.labels"),
        (lambda d: d | {"bins": [{**d["bins"][0], "n_positive": 10**6}]}, "more positive images than images"),
        (lambda d: d | {"models": [{**d["models"][0], "unit": "=cmd|'/c calc'!A1"}]}, "models.0.unit"),
        (lambda d: d | {"models": [{**d["models"][0], "weights_sha256": "=1+1"}]}, "models.0.weights_sha256"),
        (lambda d: d | {"models": [{**d["models"][0], "train_domain": "<script>"}]}, "models.0.train_domain"),
    ],
)
def test_a_bad_results_file_is_one_clear_line(
    exported: tuple[FakeRuns, dict[str, Any]], tmp_path: Path, change: Any, message: str
) -> None:
    with pytest.raises(BundleError, match=message) as found:
        read(tmp_path, change(exported[1]))
    assert "\n" not in str(found.value)


def test_results_of_one_hospitals_name_are_not_taken_for_one(
    fake_runs: Callable[..., FakeRuns], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = apart(fake_runs, tmp_path, monkeypatch)
    parts = [read(tmp_path, one), read(tmp_path, {**two, "site": one["site"]})]
    with pytest.raises(BundleError, match=r"two results are of vindr\. Give one"):
        combined_auc(parts)


def test_a_mean_over_other_seeds_and_a_signature_of_another_hospital_are_told(
    fake_runs: Callable[..., FakeRuns], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = apart(fake_runs, tmp_path, monkeypatch)
    two["models"] = [{**m, "seed": 7} if m["model"] == 0 else m for m in two["models"]]
    parts = [read(tmp_path, one), read(tmp_path, two).model_copy(update={"signer": "vindr"})]
    told = disagreements(parts)
    assert "seeds of the model vindr, ε = 8, whose mean is shown: 0 at vindr; 7 at uka" in told
    assert "signature: the results of uka are signed by vindr" in told
    assert "signer" not in parts[1].model_dump()


def test_what_makes_a_label_leaves_but_no_column_and_no_word_of_ones_own_list(
    fake_runs: Callable[..., FakeRuns], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = """
[domains.own]
kind = "table"
root = "raw/own"
columns = { ward = "SECRETSTATION" }
[domains.own.table]
file = "SECRETLIST.csv"
image = "SECRETFILE"
patient = "SECRETPID"
no_findings = "healthy"
[domains.own.table.labels]
pneumonia = { column = "SECRETCOLUMN", positive = ["SECRETWORD"] }
atelectasis = { column = "SECRETGRADE", positive = [">= 2"] }
[evaluate.groups]
ward = { column = "ward", parts = { icu = ["SECRETCELL"] } }
sex = "sex"
"""
    made = fake_runs(("vindr", "chexpert"), "[inf]", more=table)
    found = {name: results_module._definitions(made.study, name) for name in made.study.test_domains}
    assert found["vindr"]["pneumonia"] == "Pneumonia"
    assert re.fullmatch(r"own list, [0-9a-f]{12}", found["own"]["pneumonia"])
    assert re.fullmatch(r"own list, [0-9a-f]{12}, >= 2", found["own"]["atelectasis"])
    assert found["own"]["cardiomegaly"] == "unknown in every image"
    evaluation = results_module._evaluation(made.study)
    assert set(evaluation["groups"]) == {"ward", "sex"}
    assert "SECRET" not in json.dumps([found, evaluation])
    other = fake_runs(("vindr", "chexpert"), "[inf]", more=table.replace("SECRETWORD", "SECRETYES"))
    again = results_module._definitions(other.study, "own")
    assert {label for label in LABELS if again[label] != found["own"][label]} == {"pneumonia"}


def test_a_label_that_means_something_else_is_told(
    fake_runs: Callable[..., FakeRuns], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = apart(fake_runs, tmp_path, monkeypatch)
    two["definitions"] = {"uka": {**two["definitions"]["uka"], "pneumonia": "Consolidation, Pneumonia"}}
    told = disagreements([read(tmp_path, one), read(tmp_path, two)])
    assert told == ["definition, pneumonia: Pneumonia at vindr; Consolidation, Pneumonia at uka"]


def test_cut_and_strange_texts_are_no_results(exported: tuple[FakeRuns, dict[str, Any]], tmp_path: Path) -> None:
    text = as_text(exported[1])
    for number, bad in enumerate(
        (text[:-9], "", "[]", "[" * 10**5, text.replace(": 0.", ": 1.", 1), "\x00", text + " ")
    ):
        write_text(tmp_path / f"{number}.json", bad)
        with pytest.raises(BundleError, match=r"not a results file|damaged or changed|no checksum"):
            read_results(tmp_path / f"{number}.json")


def test_mlflow_has_each_model_once_with_its_numbers_at_all_hospitals(tmp_path: Path) -> None:
    """Of one hospital first, then of two, twice: the values are those of the files."""
    sent = {site: many(site, seed=number) for number, site in enumerate(("north", "south"))}
    for site, found in sent.items():
        small = {**found["models"][0], "model": 9, "seed": 9, "weights_sha256": "e" * 64}  # its AUCs may not leave
        found["models"].append(small)
        (tmp_path / f"{site}.json").write_text(as_text(found))
    files = [str(tmp_path / f"{site}.json") for site in sent]
    store = tmp_path / "mlflow.db"
    for given in (files[:1], files, files):
        together = ["combine", *given, "--output", str(tmp_path / "together"), "--to", f"sqlite:///{store}"]
        result = CliRunner().invoke(app, together)
        assert result.exit_code == 0, result.output
    assert f"{len(sent['north']['models'])} models, experiment together" in result.output
    with closing(sqlite3.connect(store)) as database:
        names = dict(database.execute("SELECT value, run_uuid FROM tags WHERE key = 'dpdt.run_id'").fetchall())
        values = "SELECT run_uuid, key, value FROM metrics"
        logged = {(run, key): value for run, key, value in database.execute(values).fetchall()}
        number = len(database.execute(values).fetchall())
        note = database.execute(
            "SELECT value FROM tags WHERE key = 'mlflow.note.content' AND run_uuid = ?", [names["study"]]
        )
        assert "north, south" in note.fetchone()[0]
    assert len(names) == len(sent["north"]["models"]) + 1
    model = next(m for m in sent["north"]["models"] if m["target_epsilon"] == 8)
    run = names[f"{model['train_domain']}-eps8-seed{model['seed']}-{model['weights_sha256'][:8]}"]
    for site, found in sent.items():
        own = next(m["model"] for m in found["models"] if m["weights_sha256"] == model["weights_sha256"])
        macro = next(
            row["auc"]
            for row in found["auc"]
            if (row["model"], row["label"], row["subgroup"]) == (own, "average", "all")
        )
        assert logged[run, f"auc/{site}/average"] == macro
    assert number == len(logged), "no number was sent twice"
    assert (tmp_path / "mlflow-artifacts").is_dir()
