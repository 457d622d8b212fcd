"""A study that is not of the chest, by configuration alone: made-up radiographs of hands, list to report."""

import json
import re
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from dpdt import api
from dpdt.base.files import read_json
from dpdt.bundle.apply import apply_bundle
from dpdt.bundle.card import bundle_card, markdown_card
from dpdt.bundle.container import pack, unpack
from dpdt.bundle.export import export_run
from dpdt.bundle.model import checked_scorer, open_bundle, parse_bundle
from dpdt.errors import BundleError
from dpdt.evaluation.evaluate import evaluate_run
from dpdt.report.apart.results import export_results
from dpdt.report.write import write_report
from dpdt.runs.read import read_run
from dpdt.shards.build import build_shards
from dpdt.study import Study, load_study

pytest.importorskip("dpdt._core")

PATIENTS = 300
STUDY = """
[study]
labels = ["fracture", "osteoarthritis", "normal"]
[domains.hands]
kind = "table"
root = "raw"
columns = { ward = "Station" }
[domains.hands.table]
file = "list.csv"
image = "File"
patient = "Patient"
sex = "Sex"
age = "Age"
findings = "Findings"
no_findings = "healthy"
[domains.hands.table.labels]
fracture = { findings = ["metacarpal fracture", "phalanx fracture"] }
osteoarthritis = { column = "Kellgren", positive = [">= 2"] }
[shards]
size = 32
[model]
width = 8
[train]
num_epochs = 15
expected_batch_size = 16
learning_rate = 3e-3
class_weights = { fracture = 2.0 }
device = "cpu"
num_threads = 1
[privacy]
target_epsilons = [inf]
delta = 1e-3
[evaluate]
bootstrap_draws = 50
[evaluate.groups]
sex = "sex"
ward = "ward"
sex_by_ward = ["sex", "ward"]
"""


def hand(random: np.random.Generator, *, broken: bool) -> np.ndarray:
    """A palm and five fingers; of a broken hand one finger has a dark gap."""
    image = np.full((64, 48), 20, dtype=np.uint8)
    cv2.ellipse(image, (24, 46), (14, 12), 0, 0, 360, 150, -1)
    for finger in range(5):
        end = (4 + 10 * finger + int(random.integers(-1, 2)), 8 if finger else 24)
        cv2.line(image, (14 + 5 * finger, 42), end, 190, 3)
    if broken:
        cv2.rectangle(image, (0, 26), (47, 32), 5, -1)
    return cv2.add(image, random.integers(0, 12, image.shape, dtype=np.uint8))


@pytest.fixture(scope="module")
def hands(tmp_path_factory: pytest.TempPathFactory) -> Study:
    folder = tmp_path_factory.mktemp("hands")
    random = np.random.default_rng(0)
    rows = []
    (folder / "raw").mkdir()
    for number in range(PATIENTS):
        broken, grade = bool(random.random() < 0.4), int(random.integers(0, 5))
        cv2.imwrite(str(folder / "raw" / f"{number}.png"), hand(random, broken=broken))
        finding = random.choice(["Metacarpal fracture", "phalanx fracture; cast"]) if broken else ""
        rows.append(
            [f"{number}.png", f"h{number}", "FM"[number % 2], 30 + number % 50, finding, grade, "AB"[number % 3 > 0]]
        )
    columns = ["File", "Patient", "Sex", "Age", "Findings", "Kellgren", "Station"]
    pd.DataFrame(rows, columns=columns).to_csv(folder / "raw" / "list.csv", index=False)
    (folder / "study.toml").write_text(STUDY)
    return load_study(folder / "study.toml")


@pytest.fixture(scope="module")
def metrics(hands: Study) -> pd.DataFrame:
    return api.evaluate(api.train(hands, "hands"))


def test_the_list_is_read_by_its_own_labels(hands: Study) -> None:
    table = api.Cohort(hands, "hands").table
    raw = pd.read_csv(hands.root("hands") / "list.csv").set_index("File")
    merged = table.set_index("image_id").join(raw)
    assert (merged["fracture"] == merged["Findings"].notna()).all()
    assert (merged["osteoarthritis"] == (merged["Kellgren"] >= 2)).all()
    # an empty cell is a normal hand, unless the other column has a finding
    assert (merged["normal"] == (merged["Findings"].isna() & (merged["Kellgren"] < 2))).all()


def test_hands_are_trained_and_tested_by_the_names_of_their_labels(hands: Study, metrics: pd.DataFrame) -> None:
    config = read_json(hands.paths.run(hands.run_id(hands.cells()[0])).config)
    assert config["labels"] == ["fracture", "osteoarthritis", "normal"]
    assert config["class_weights"] == [2.0, 1.0, 1.0]
    auc = metrics[(metrics["metric"] == "auc") & (metrics["subgroup"] == "all")].set_index("label")["value"]
    assert auc["fracture"] > 0.9  # the gap is drawn
    assert auc["osteoarthritis"] < 0.9  # nothing is drawn for it: an output under another name would show here
    assert set(metrics["subgroup"]) >= {"female", "ward_a", "ward_b", "female_ward_a", "sex", "ward", "sex_by_ward"}


def test_the_report_is_of_hands(hands: Study, metrics: pd.DataFrame) -> None:
    page = write_report(hands).read_text()
    text = re.sub(r"data:image/png;base64,[^\"]+", "", page.split("<main id=")[1])
    assert "osteoarthritis" in text
    assert "ward a" in text
    assert "sex by ward" in text
    for word in ("chest", "lung", "cardiomegaly", "pneumonia", "healthy"):
        assert word not in text.replace("calls healthy", "").casefold(), word
    table = pd.read_csv(hands.paths.report / "auc.csv")
    assert set(table["label"]) == {"average", "fracture", "osteoarthritis", "normal"}


def test_another_study_starts_from_these_weights_by_name(
    hands: Study, metrics: pd.DataFrame, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = hands.paths.run(hands.run_id(hands.cells()[0])).weights
    for labels, said in ((["normal", "fracture"], False), (["fracture", "cyst"], True)):
        cyst = 'cyst = { findings = ["cast"] }' if "cyst" in labels else ""
        text = STUDY
        for old, new in (
            (
                'labels = ["fracture", "osteoarthritis", "normal"]',
                f'labels = {json.dumps(labels)}\nfolder = "{labels[1]}"',
            ),
            ('osteoarthritis = { column = "Kellgren", positive = [">= 2"] }', cyst),
            ("num_epochs = 15", "num_epochs = 1"),
            ("width = 8", f'width = 8\ninit_weights = "{weights}"'),
        ):
            assert old in text
            text = text.replace(old, new)
        file = hands.file.with_name(f"{labels[1]}.toml")
        file.write_text(text)
        study = load_study(file)
        trained = api.train(study, "hands")
        found = read_json(study.paths.run(trained.run_id).config)["initial_weights"]
        assert found["new_head"] is said
        err = capsys.readouterr().err
        assert ("has no last layer for fracture, cyst: a new one is trained" in err) is said


def test_a_group_that_comes_later_wants_the_list_read_again_and_nothing_else(
    hands: Study, metrics: pd.DataFrame
) -> None:
    weights = hands.paths.run(hands.run_id(hands.cells()[0])).weights
    before, shards = weights.stat().st_mtime_ns, hands.paths.shards("hands").manifest.read_bytes()
    text = STUDY.replace('{ ward = "Station" }', '{ ward = "Station", grade = "Kellgren" }')
    file = hands.file.with_name("later.toml")
    file.write_text(text + 'grade = { column = "grade", cuts = [0, 2, 5] }\n')
    study = load_study(file)
    assert "grade" in api.Cohort(study, "hands").table
    found = api.evaluate(api.train(study, "hands"))
    assert weights.stat().st_mtime_ns == before
    assert study.paths.shards("hands").manifest.read_bytes() == shards
    auc = found[(found["metric"] == "auc") & (found["label"] == "fracture")].set_index("subgroup")["n"]
    assert auc["grade_0_2"] + auc["grade_2_5"] == auc["all"]
    same = metrics[metrics["subgroup"] == "ward_a"]["value"].to_numpy()
    assert np.allclose(found[found["subgroup"] == "ward_a"]["value"].to_numpy(), same, equal_nan=True)


@pytest.fixture(scope="module")
def bundle(hands: Study, metrics: pd.DataFrame) -> bytes:
    run = read_run(hands, hands.run_id(hands.cells()[0]))
    assert run
    return export_run(hands, run, licence="MIT", intended_use="tests", site="elsewhere", without_privacy=True)


def test_a_bundle_of_hands_says_what_its_scores_are(hands: Study, bundle: bytes, tmp_path: Path) -> None:
    (tmp_path / "hands.dpdt").write_bytes(bundle)
    opened = open_bundle(tmp_path / "hands.dpdt")
    card = markdown_card(bundle_card(opened))
    for label in ("fracture", "osteoarthritis", "normal"):
        assert f"| {label} | " in card
    for word in ("chest", "pneumonia", "cardiomegaly"):
        assert word not in card.casefold(), word
    files = [str(hands.root("hands") / f"{number}.png") for number in range(60)]
    apply_bundle(opened, checked_scorer(opened, "b", device="cpu"), files, tmp_path / "scores.csv")
    table = pd.read_csv(tmp_path / "scores.csv")
    raw = pd.read_csv(hands.root("hands") / "list.csv")["Findings"].notna()[:60]
    assert roc_auc_score(raw, table["fracture_score"]) > 0.9  # the gap is drawn
    assert roc_auc_score(raw, table["normal_score"]) < 0.5
    assert [name for name in table if name.endswith("_score")] == [
        f"{label}_score" for label in ("fracture", "osteoarthritis", "normal")
    ]


def test_a_model_of_hands_is_tested_by_name_in_a_study_of_other_labels(
    hands: Study, metrics: pd.DataFrame, bundle: bytes
) -> None:
    """Here normal comes first, there is no osteoarthritis, and a cast is a label that the model does not have."""
    text = STUDY.replace(
        'labels = ["fracture", "osteoarthritis", "normal"]', 'labels = ["normal", "plaster", "fracture"]'
    )
    text = text.replace(
        'osteoarthritis = { column = "Kellgren", positive = [">= 2"] }', 'plaster = { findings = ["cast"] }'
    )
    text = text.replace("[study]", '[study]\nfolder = "abroad"') + '[models.other]\nbundle = "hands.dpdt"\n'
    hands.file.with_name("hands.dpdt").write_bytes(bundle)
    hands.file.with_name("abroad.toml").write_text(text)
    study = load_study(hands.file.with_name("abroad.toml"))
    api.Cohort(study, "hands")
    build_shards(study, "hands")
    evaluate_run(study, "bundle-other")
    here, there = (
        pd.read_parquet(one.paths.run(run_id).predictions("hands")).set_index(["image_id", "label"])["score"].unstack()
        for one, run_id in ((study, "bundle-other"), (hands, hands.run_id(hands.cells()[0])))
    )
    assert len(here) > 20
    assert set(here.index) == set(there.index)
    for label in ("normal", "fracture"):
        assert np.allclose(here[label], there.loc[here.index, label], atol=1e-6)
    assert not np.allclose(here["normal"], here["fracture"], atol=0.1)  # else a permutation would not show
    assert here["plaster"].isna().all()
    table = pd.read_parquet(study.paths.run("bundle-other").metrics).query("metric == 'auc' and subgroup == 'all'")
    values = table.set_index("label")["value"]
    assert values["fracture"] > 0.9
    assert np.isnan(values["plaster"])
    assert table.set_index("label").loc["average", "labels"] == "normal,fracture"
    found = export_results(study, site="abroad")
    assert {row["label"] for row in found["auc"]} == {"normal", "fracture", "average"}
    assert {"ward_a", "ward_b", "female"} & {row["subgroup"] for row in found["auc"]}
    assert "Kellgren" not in json.dumps(found)
    assert "Station" not in json.dumps(found)


def test_outputs_in_another_order_than_the_labels_are_found_by_the_self_test(bundle: bytes) -> None:
    manifest, tensors = unpack(bundle, "b")
    order = [2, 1, 0]
    for part in ("weight", "bias"):
        tensors[f"weights.fc.{part}"] = tensors[f"weights.fc.{part}"][order]
    wrong = parse_bundle(pack(manifest, tensors), "b")
    with pytest.raises(BundleError, match="self-test: the network's scores of its made-up image"):
        checked_scorer(wrong, "b", device="cpu")
