"""A study's own labels: their names, what makes them in each published list, and all that goes by their names."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from dpdt.base.files import make_folder, write_json
from dpdt.base.vocabulary import LABELS, as_name, check_labels, healthy_label
from dpdt.cli import main
from dpdt.cohort.build import build_cohort
from dpdt.cohort.table import labels_sha256, read_cohort, read_record
from dpdt.errors import CohortError, StudyError
from dpdt.jobs.checks import check_groups
from dpdt.report.from_csv import read_auc_table
from dpdt.study import Cell, Study, load_study
from dpdt.study.findings import DEFINITIONS, Finding, define, findings_of, padchest_tree
from dpdt.training.networks.resnet9 import ResNet9
from dpdt.training.networks.weights import load_weights, named
from dpdt.training.run import TrainingRun
from dpdt.training.start import choose_class_weights

MakeFile = Callable[[str], Path]

TWO = '[study]\nlabels = ["edema", "no_finding"]\n[domains.chexpert]\nroot = "x"\n[domains.chestxray14]\nroot = "y"\n'


@pytest.fixture
def study_file(tmp_path: Path) -> MakeFile:
    def write(text: str) -> Path:
        file = tmp_path / "study.toml"
        file.write_text(text)
        return file

    return write


# ---- names ----


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["Edema"], r"study\.labels: 'Edema': expected small letters, digits and _ .* for example 'edema'"),
        (["lung opacity"], r"'lung opacity': expected small letters.* for example 'lung_opacity'"),
        (["größe"], r"'größe': expected small letters"),
        ([""], r"'': expected small letters"),
        (["a" * 65], r"at most 64"),
        (["../x"], r"expected small letters"),
        (["edema", "edema"], r"'edema' occurs twice\. Leave one"),
        (["average"], r"'average' is a word of dpdt's own tables"),
        (["all"], r"'all' is a word of dpdt's own tables"),
        (["sex"], r"'sex' is a word of dpdt's own tables"),
        (["none"], r"'none' is a word of dpdt's own tables"),
        (["healthy", "no_finding"], r"healthy and no_finding mean the same"),
        ([], r"study\.labels: expected at least one value"),
    ],
)
def test_a_name_that_cannot_be_a_label_is_refused_with_one_line(
    labels: list[str], message: str, study_file: MakeFile
) -> None:
    text = f"[study]\nlabels = {json.dumps(labels, ensure_ascii=False)}\n[domains.chexpert]\nroot = 'x'\n"
    with pytest.raises(StudyError, match=message):
        load_study(study_file(text))


@pytest.mark.parametrize("labels", [["fracture"], [f"finding_{n}" for n in range(60)]])
def test_one_label_and_sixty_are_labels(labels: list[str]) -> None:
    check_labels(labels)
    assert healthy_label(labels) is None


def test_a_label_of_nobody_names_other_spellings_and_findings_but_no_other_diagnosis(study_file: MakeFile) -> None:
    chexpert = '[domains.chexpert]\nroot = "x"\n'
    with pytest.raises(StudyError, match=r"no domain has 'plural_effusion'\. Did you mean 'pleural_effusion'\?"):
        load_study(study_file(f'[study]\nlabels = ["plural_effusion"]\n{chexpert}'))
    with pytest.raises(
        StudyError, match=r"no domain has 'pneumomediastinum'\. Define it: \[labels\.pneumomed"
    ) as raised:
        load_study(study_file(f'[study]\nlabels = ["pneumomediastinum"]\n{chexpert}'))
    assert "pneumonia" not in str(raised.value)
    with pytest.raises(StudyError, match=r"'rib_fracture'\. Findings with a word of it: fracture\."):
        load_study(study_file(f'[study]\nlabels = ["rib_fracture"]\n{chexpert}'))


def test_a_domain_without_any_of_the_labels_is_refused(study_file: MakeFile) -> None:
    text = '[study]\nlabels = ["hernia"]\n[domains.chestxray14]\nroot = "x"\n[domains.chexpert]\nroot = "y"\n'
    with pytest.raises(StudyError, match=r"domains\.chexpert: has none of the study's labels \(hernia\)\. Define one"):
        load_study(study_file(text))
    study = load_study(study_file(text + '[labels.hernia]\nchexpert = "Pleural Other"\n'))
    assert study.known_labels("chexpert") == ("hernia",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "[labels.oedema]\nchexpert = ['Edema']\n",
            r"labels\.oedema: unknown key\. Did you mean 'edema'\? Valid keys: ",
        ),
        (
            "[labels.edema]\nchexpirt = ['Edema']\n",
            r"labels\.edema\.chexpirt: no such domain\. Domains: chexpert, chest",
        ),
        ("[labels.edema]\nchexpert = ['Oedema']\n", r"labels\.edema\.chexpert: 'Oedema' is no finding of chexpert\."),
        ("[labels.edema]\nchexpert = []\n", r"labels\.edema\.chexpert: expected at least one value"),
        ("[domains.padchest]\nroot = 'z'\nsublabels = { lung = ['x'] }\n", r"padchest\.sublabels\.lung: unknown key\."),
        ("[labels.edema]\nchexpert = ['Edema >= 2']\n", r"a cut \(>=\) belongs to grades, and the lists of chexpert"),
        (
            "[train]\nclass_weights = {fracture = 2}\n",
            r"train\.class_weights\.fracture: unknown key.* edema, no_finding",
        ),
        ("[train]\nclass_weights = [1, 2, 3, 4, 5]\n", r"train\.class_weights: numbers in a row belong to the paper's"),
        ("[train]\nclass_weights = {edema = -1}\n", r"class_weights: expected positive finite numbers, got \[-1\.0\]"),
    ],
)
def test_what_names_no_label_domain_or_finding_is_one_clear_line(text: str, message: str, study_file: MakeFile) -> None:
    with pytest.raises(StudyError, match=message):
        load_study(study_file(TWO + text))


# ---- what makes a label ----


def test_the_papers_five_are_made_of_what_they_were_made_of() -> None:
    # as the readers had them before labels could be chosen: each data set's own words
    effusions = ["pleural effusion", "loculated pleural effusion", "loculated fissural effusion"]
    atelectases = [f"{word} atelectasis" for word in ("total", "lobar", "segmental", "laminar", "round")]
    wanted = {
        "chestxray14": [["Cardiomegaly"], ["Effusion"], ["Pneumonia"], ["Atelectasis"], ["No Finding"]],
        "chexpert": [["Cardiomegaly"], ["Pleural Effusion"], ["Pneumonia"], ["Atelectasis"], ["No Finding"]],
        "mimic": [["Cardiomegaly"], ["Pleural Effusion"], ["Pneumonia"], ["Atelectasis"], ["No Finding"]],
        "vindr": [["Cardiomegaly"], ["Pleural effusion"], ["Pneumonia"], ["Atelectasis"], ["No finding"]],
        "padchest": [
            ["cardiomegaly"],
            effusions,
            ["pneumonia", "atypical pneumonia"],
            ["atelectasis", *atelectases, "atelectasis basal"],
            ["normal"],
        ],
        "uka": [["cardiomegaly"], ["pleural effusion"], ["pneumonic infiltrates"], ["atelectasis"], ["no finding"]],
    }
    for kind, of_labels in wanted.items():
        for label, names in zip(LABELS, of_labels, strict=True):
            assert [one.name for one in define(label, kind)] == names, (kind, label)
            assert all(one.at_least is None for one in define(label, kind))


def test_each_published_layout_has_its_findings() -> None:
    # Wang 2017 and NIH: 14 and No Finding; Irvin 2019, table 1: 14; Nguyen 2022, table 1: 22 + 6;
    # Bustos 2020: 174 findings and 19 diagnoses, with normal, exclude and suboptimal study among them.
    sizes = {"chestxray14": 15, "chexpert": 14, "mimic": 14, "vindr": 28, "padchest": 193, "table": 0}
    assert {kind: len(findings_of(kind)) for kind in sizes} == sizes
    for kind in sizes:
        assert len({as_name(finding) for finding in findings_of(kind)}) == sizes[kind]  # each its own label
    for kind in DEFINITIONS["pleural_effusion"]:
        assert {*DEFINITIONS["pleural_effusion"][kind]} <= {*findings_of(kind)}


def test_a_parent_of_padchests_tree_has_those_below_it_in_every_place() -> None:
    tree = padchest_tree()
    assert tree["fracture"] == (
        "fracture",
        "clavicle fracture",
        "humeral fracture",
        "vertebral fracture",
        "rib fracture",
        "callus rib fracture",
    )
    vessels = ("vascular hilar enlargement", "pulmonary artery enlargement")
    assert tree["hilar enlargement"] == ("hilar enlargement", "adenopathy", *vessels)
    assert {"pneumothorax", "hydropneumothorax"} == {*tree["pneumothorax"]}
    assert "hydropneumothorax" in tree["pleural effusion"]
    assert [one.name for one in define("effusion", "padchest", given=["Pleural Effusion"])] == [
        *tree["pleural effusion"]
    ]


def test_cuts_of_grades_are_parts_of_a_definition() -> None:
    assert define("congestion", "uka", given=[">= 2"]) == (Finding("congestion", 2),)
    assert define("pneumonia", "uka", given=[">= 4"]) == (Finding("pneumonic infiltrates", 4),)
    both = define("fluid", "uka", given=["pleural_effusion >= 2", "congestion"])
    assert both == (Finding("pleural effusion", 2), Finding("congestion", None))
    with pytest.raises(ValueError, match=r"'>= 7': expected a grade from 1 to 4 after >="):
        define("congestion", "uka", given=[">= 7"])
    with pytest.raises(ValueError, match=r"no finding has no grade"):
        define("healthy", "uka", given=["no finding >= 2"])


# ---- fingerprints ----


def test_naming_the_papers_labels_is_naming_none(study_file: MakeFile) -> None:
    domains = '[domains.chexpert]\nroot = "x"\n[domains.mimic]\nroot = "y"\n'
    plain = load_study(study_file(domains))
    named_ = load_study(study_file(f"[study]\nlabels = {json.dumps(LABELS)}\n{domains}"))
    assert [*map(named_.run_id, named_.tested_models())] == [*map(plain.run_id, plain.tested_models())]


def test_labels_their_order_and_their_definition_here_make_another_run(study_file: MakeFile) -> None:
    texts = [
        TWO,
        TWO.replace('"edema", "no_finding"', '"no_finding", "edema"'),
        TWO.replace('"edema", "no_finding"', '"edema"'),
        TWO + '[labels.edema]\nchexpert = ["Lung Opacity"]\n',
    ]
    found = [load_study(study_file(text)) for text in texts]
    assert len({study.run_id(Cell("chexpert", 8.0, 0)) for study in found}) == 4
    # a definition at chexpert leaves the trainings at chestxray14 alone
    assert found[0].run_id(Cell("chestxray14", 8.0, 0)) == found[3].run_id(Cell("chestxray14", 8.0, 0))


def test_a_run_of_other_labels_keeps_its_name(study_file: MakeFile) -> None:
    # written by the version that brought the key
    study = load_study(study_file(TWO))
    assert study.run_id(Cell("chexpert", 8.0, 0)) == PINNED


PINNED = "chexpert-patient-eps8-seed0-1a9b5934"


def test_groups_and_columns_change_no_runs_name(study_file: MakeFile) -> None:
    file = study_file('[domains.padchest]\nroot = "x"\n')
    plain = load_study(file).run_id(Cell("padchest", 8.0, 0))
    domain = '[domains.padchest]\nroot = "x"\ncolumns = { kind = "Modality_DICOM" }\n'
    grouped = load_study(study_file(domain + '[evaluate.groups]\nmaker = "manufacturer"\nhow = "kind"\n'))
    assert grouped.group_columns("padchest") == {"manufacturer": "Manufacturer_DICOM", "kind": "Modality_DICOM"}
    assert grouped.run_id(Cell("padchest", 8.0, 0)) == plain


def test_a_hash_of_labels_knows_which_column_is_which() -> None:
    table = pd.DataFrame({"image_id": ["a", "b"], "split": "train"})
    table = table.assign(edema=pd.array([1, 0], dtype="Int8"), mass=pd.array([1, 0], dtype="Int8"))
    assert labels_sha256(table, "train", ["edema", "mass"]) != labels_sha256(table, "train", ["mass", "edema"])


# ---- weights by name ----


def network(outputs: int, seed: int) -> ResNet9:
    torch.manual_seed(seed)
    return ResNet9(width=8, num_outputs=outputs)


def test_weights_give_their_outputs_by_name_in_any_order(tmp_path: Path) -> None:
    source = network(3, 1)
    torch.save(named(source.state_dict(), ["edema", "mass", "fracture"]), tmp_path / "w.pt")
    images = torch.rand(2, 1, 32, 32)
    whole, some = network(3, 2), network(2, 3)
    assert load_weights(whole, tmp_path / "w.pt", labels=["fracture", "edema", "mass"])
    assert load_weights(some, tmp_path / "w.pt", labels=["mass", "edema"])
    with torch.no_grad():
        wanted = source.eval()(images)
        assert torch.allclose(whole.eval()(images), wanted[:, [2, 0, 1]], atol=1e-6)
        assert torch.allclose(some.eval()(images), wanted[:, [1, 0]], atol=1e-6)


def test_weights_of_other_labels_start_a_new_head_or_are_refused(tmp_path: Path) -> None:
    torch.save(named(network(2, 1).state_dict(), ["edema", "mass"]), tmp_path / "two.pt")
    model = network(2, 2)
    before = model.fc.weight.detach().clone()
    assert not load_weights(model, tmp_path / "two.pt", new_head=True, labels=["edema", "fracture"])
    assert torch.equal(model.fc.weight, before)
    with pytest.raises(StudyError, match=r"its last layer is for edema, mass; expected edema, fracture\. Take weights"):
        load_weights(model, tmp_path / "two.pt", labels=["edema", "fracture"])


def test_five_outputs_without_names_are_the_papers_labels_and_no_others(tmp_path: Path) -> None:
    torch.save(network(5, 1).state_dict(), tmp_path / "five.pt")
    assert load_weights(network(5, 2), tmp_path / "five.pt", labels=LABELS)
    assert load_weights(network(2, 2), tmp_path / "five.pt", labels=["healthy", "pneumonia"])
    others = ["edema", "mass", "fracture", "hernia", "nodule"]
    assert not load_weights(network(5, 2), tmp_path / "five.pt", new_head=True, labels=others)
    torch.save(network(7, 1).state_dict(), tmp_path / "seven.pt")
    seven = [*others, "cyst", "ild"]
    assert not load_weights(network(7, 2), tmp_path / "seven.pt", new_head=True, labels=seven)


def test_a_state_dict_of_the_five_has_no_names_beside_it() -> None:
    state = network(5, 1).state_dict()
    assert named(state, LABELS) is state
    assert set(named(state, ["edema"])) - set(state) == {"dpdt.labels"}


def test_class_weights_of_the_public_data_are_taken_by_name(study_file: MakeFile) -> None:
    public = TWO + '[domains.mimic]\nroot = "z"\n[train]\nclass_weights = "public"\n'
    study = load_study(study_file(public))
    config = study.paths.run(str(study.pretrain_run_id)).config
    make_folder(config.parent)
    # as a pretraining would have written them, but planted in the other order
    write_json(config, {"labels": ["no_finding", "edema"], "public_class_weights": [3.0, 7.0]})
    cell = Cell("chexpert", 8.0, 0)
    run = TrainingRun(study, study.run_id(cell), "train", "chexpert", cell, seeded=True)
    assert choose_class_weights(run, None, None) == [7.0, 3.0]  # type: ignore[arg-type]
    given = load_study(study_file(public.replace('"public"', "{ no_finding = 4 }")))
    run = TrainingRun(given, "x", "train", "chexpert", cell, seeded=True)
    assert choose_class_weights(run, None, None) == [1.0, 4.0]  # type: ignore[arg-type]


# ---- cohorts ----

OWN = """
[study]
labels = ["fracture", "osteoarthritis", "healthy"]
[domains.chexpert]
root = "elsewhere"
[domains.own]
kind = "table"
root = "."
missing_images = "later"
columns = { ward = "Station" }
[domains.own.table]
file = "list.csv"
image = "image"
patient = "patient"
[domains.own.table.labels]
osteoarthritis = { column = "grade", positive = [">= 3"], unknown = ["", "nb"] }
healthy = { column = "ok" }
"""
LIST = "image,patient,grade,ok,Station\n" + "".join(
    f"{n}.png,p{n},{grade},{int(n % 2 == 0)},{'ICU' if n % 3 else 'A 1'}\n"
    for n, grade in enumerate(["0", "2", "2,9", "3", "3.0", "4", "", "nb", "1", "4"] * 4)
)


@pytest.fixture
def own(tmp_path: Path) -> Callable[[str], Study]:
    def make(more: str = "") -> Study:
        (tmp_path / "list.csv").write_text(LIST.replace("2,9", '"2,9"'))
        (tmp_path / "study.toml").write_text(OWN + more)
        return load_study(tmp_path / "study.toml")

    return make


def test_a_list_of_ones_own_has_the_studys_labels_cuts_and_columns(own: Callable[[str], Study]) -> None:
    study = own('[evaluate.groups]\nstation = "ward"\n')
    build_cohort(study, "own")
    table = read_cohort(study, "own").set_index("image_id")
    assert [*table.columns[8:]] == ["fracture", "osteoarthritis", "healthy", "ward"]
    first = [table.loc[f"{n}.png", "osteoarthritis"] for n in range(10)]
    assert first[:6] == [0, 0, 0, 1, 1, 1]
    assert first[6:8] == [pd.NA, pd.NA]
    assert table["fracture"].isna().all()
    assert table.loc["1.png", "ward"] == "ICU"
    notes = {row["value"]: row["images"] for row in read_record(study, "own")["counts"] if row["what"] == "note"}
    assert notes["fracture unknown in every image"] == 40
    # a healthy hand with osteoarthritis is none: images 4 of every ten have grade 3 and ok
    assert notes["healthy with a finding, set to 0"] == 4


def test_a_number_that_stands_for_no_grade_is_on_no_side_of_the_cut(own: Callable[[str], Study]) -> None:
    study = own()
    text = study.file.read_text()
    study.file.write_text(text.replace('["", "nb"]', '["", "nb", "4"]'))  # as a list writes 9 where nobody looked
    build_cohort(load_study(study.file), "own")
    table = read_cohort(load_study(study.file), "own").set_index("image_id")
    assert table.loc[["3.png", "5.png", "9.png"], "osteoarthritis"].tolist() == [1, pd.NA, pd.NA]
    for word, cell in (("yes", "1"), ("no", "9")):
        study.file.write_text(
            text.replace('patient = "patient"', f'patient = "patient"\nwords = {{ {word} = ["{cell}"] }}')
        )
        with pytest.raises(
            StudyError, match=rf"osteoarthritis, with words: '{cell}' is listed as .*>= 3, says otherwi"
        ):
            load_study(study.file)


def test_an_image_is_not_healthy_by_a_column_and_by_an_empty_cell(own: Callable[[str], Study]) -> None:
    study = own()
    text = study.file.read_text().replace('patient = "patient"', 'patient = "patient"\nno_findings = "healthy"')
    study.file.write_text(text)
    with pytest.raises(StudyError, match=r"and so does the column of labels\.healthy: leave one of them"):
        load_study(study.file)


def test_a_group_that_asks_for_a_column_later_asks_for_the_cohort_anew(own: Callable[[str], Study]) -> None:
    study = own()
    build_cohort(study, "own")
    assert "ward" not in read_cohort(study, "own")
    study = own('[evaluate.groups]\nstation = "ward"\n')
    with pytest.raises(
        CohortError, match=r"built without the column ward, which a group of \[evaluate\.groups\] asks for"
    ):
        read_cohort(study, "own")
    build_cohort(study, "own")
    assert "ward" in read_cohort(study, "own")


def test_groups_that_cannot_be_are_refused_as_soon_as_there_is_a_cohort(own: Callable[[str], Study]) -> None:
    study = own('[evaluate]\ndomains = ["own"]\n[evaluate.groups]\nstation = { column = "ward", cuts = [0, 1] }\n')
    check_groups(study, ["own"])  # no cohort yet
    build_cohort(study, "own")
    with pytest.raises(StudyError, match=r"groups\.station: cuts are for numbers, and none of the \d+ cells of 'ward'"):
        check_groups(study, study.domains)


def test_a_columns_name_that_the_list_has_not_is_an_error(own: Callable[[str], Study], tmp_path: Path) -> None:
    own()
    file = tmp_path / "study.toml"
    file.write_text(file.read_text().replace("Station", "Abteilung") + '[evaluate.groups]\nstation = "ward"\n')
    with pytest.raises(Exception, match=r"no column 'Abteilung' \(column ward\)"):
        build_cohort(load_study(file), "own")


def test_domains_lists_findings_and_counts_them_in_the_list(
    own: Callable[[str], Study], capsys: pytest.CaptureFixture[str]
) -> None:
    study = own()
    for arguments in (
        ["domains", "--json", "--domain", "chexpert"],
        ["domains", str(study.file), "--domain", "own", "--json"],
    ):
        with pytest.raises(SystemExit) as end:
            main(arguments)
        assert end.value.code == 0
    printed = capsys.readouterr().out
    published, counted = (json.loads(part) for part in printed.replace("]\n[", "]\n\0[").split("\0"))
    assert [row["label"] for row in published][:3] == ["no_finding", "enlarged_cardiomediastinum", "cardiomegaly"]
    assert {row["finding"]: row["images"] for row in counted} == {"osteoarthritis": 16, "healthy": 20}


# ---- tables of AUCs ----


def test_a_table_of_aucs_may_have_any_labels_and_groups() -> None:
    rows = [
        {"target_epsilon": e, "label": label, "subgroup": group, "train_domain": "a", "test_domain": "a", "auc": 0.8}
        for e in ("inf", "1")
        for label in ("edema", "pneumonia", "healthy")
        for group in ("all", "ward_icu", "female")
    ]
    auc, grid = read_auc_table(pd.DataFrame(rows), "x.csv")
    assert grid.labels == ("pneumonia", "healthy", "edema")
    assert grid.groups == ("female", "ward_icu")
    assert np.isclose(auc.loc[auc["label"] == "average", "auc"], 0.8).all()
    with pytest.raises(StudyError, match=r"label: 'Edema': expected small letters"):
        read_auc_table(pd.DataFrame(rows).replace("edema", "Edema"), "x.csv")
