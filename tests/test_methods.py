"""What authors paste: every item of both checklists once, the study's own numbers, and no key without a reference."""

import re
from collections.abc import Callable

import pytest

from dpdt.base.files import read_json, write_json
from dpdt.report.methods import checklists, paper_of
from dpdt.report.provenance import people
from dpdt.runs.read import model_runs
from dpdt.study import Cell, Study
from tests.fake_runs import FakeRuns

# Items of Collins et al., BMJ 2024;385:e078378. CLAIM (Tejani et al., Radiol Artif Intell 2024;6(4):e240300) has 44.
TRIPOD = "1 2 3a 3b 3c 4 5a 5b 6a 6b 6c 7 8a 8b 8c 9a 9b 9c 10 11 12a 12b 12c 12d 12e 12f 12g 13 14 15 16 17"
TRIPOD += " 18a 18b 18c 18d 18e 18f 19 20a 20b 20c 21 22 23a 23b 24 25 26 27a 27b 27c"


@pytest.fixture
def study(fake_runs: Callable[..., FakeRuns]) -> Study:
    more = "[train]\nnum_epochs = 7\nlearning_rate = 0.003\nseeds = [3, 5]"
    return fake_runs(("vindr", "uka"), "[1.0, 8.0, inf]", more=more).all().study


def test_every_item_is_there_once_and_says_something(study: Study) -> None:
    tripod, claim = checklists(study, [], "12 patients")
    assert [item for item, *_ in tripod.items] == TRIPOD.split()
    assert [item for item, *_ in claim.items] == [str(number) for number in range(1, 45)]
    for one in (tripod, claim):
        for item, topic, told, _, authors in one.items:
            assert topic, item
            assert told or authors, item
            assert "{" not in told, item


def test_the_paragraph_has_the_study_s_numbers(study: Study) -> None:
    paper = paper_of(study, [run for run in model_runs(study).values() if run], "12 patients")
    for expected in (
        "7 epochs of NAdam [dozat2016] at a learning rate of 0.003",
        "seeds 3 and 5",
        "each target ε (1 and 8)",
        "synthetic images in the place of radiographs of VinDr-CXR [nguyen2022] and UKA-CXR",
        "Patients: 12 patients.",
        "torch 2.13.0",
    ):
        assert expected in paper.text
    assert "vindr" not in paper.text
    assert "pleural_effusion" not in paper.text


def test_where_images_count_as_patients_no_patient_is_promised(study: Study) -> None:
    def texts() -> tuple[str, str, str]:
        runs = [run for run in model_runs(study).values() if run]
        files = paper_of(study, runs, "").files()
        return files["methods.txt"], files["claim.md"], people(study, runs)

    known = "where each image counts as a patient, that is known of images alone"
    assert not any("each image counts" in text or "nameless" in text for text in texts())
    statement = study.paths.run(study.run_id(Cell("vindr", 1.0, 3))).privacy
    write_json(statement, {**read_json(statement), "unit_note": "each image counts as one patient"})
    methods, claim, _ = texts()
    assert f"so that no patient is in two of them (of VinDr-CXR, {known})." in methods
    assert f"| Patient: no patient is in two splits (of VinDr-CXR, {known}). |" in claim


def test_every_key_has_its_reference_and_no_other_is_there(study: Study) -> None:
    paper = paper_of(study, [], "")
    files = paper.files()
    keys = set(re.findall(r"\[([a-z]+\d{4})\]", paper.text))
    assert keys >= {
        "abadi2016",
        "delong1988",
        "doroshenko2022",
        "nguyen2022",
    }  # the public data set that was trained on
    assert set(re.findall(r"@\w+\{(\w+),", files["references.bib"])) == keys
    assert files["references.bib"].count("{") == files["references.bib"].count("}")
    rows = [line for line in files["claim.md"].splitlines() if line.startswith("|")]
    assert len(rows) == 44 + 2
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {7}


def test_a_recipe_of_ones_own_is_what_the_paragraph_says(fake_runs: Callable[..., FakeRuns]) -> None:
    """Nothing of the default recipe is left in the words of another."""
    more = (
        'clip_factor = "automatic"\nclip_scope = "layers"\n[train]\n'
        'optimizer = "sgd"\nsample_rate = 0.25\nviews = 2\naveraging = "ema"\n'
        'schedule = "cosine"\nwarm_up = 0.1\nhead_first = 0.2\nfull_learning_rate_at = 300'
    )
    paper = paper_of(fake_runs(("vindr",), more=more).study, [], "")
    for expected in (
        "epochs of SGD with momentum at a learning rate of 0.0002 with an expected batch of a part of 0.25 of the pat",
        "In the first 20% of the steps the last layer alone was trained [kumar2022].",
        "With DP the learning rate was multiplied with the expected batch over the noise multiplier and 300, where",
        "The learning rate rose over 10% of the steps, then fell by a cosine.",
        "Of a drawn image 2 random views were made, whose mean gradient was clipped once [de2022].",
        "The weights are an exponential average over the steps. Clipping was automatic [bu2023]",
        "Each layer's gradient was clipped by itself, to the norm over the root of the layers' number [he2022].",
        "Every training began from random weights and took",
    ):
        assert expected in paper.text
    assert "NAdam" not in paper.text + "".join(paper.files().values())
    assert "@inproceedings{bu2023," in paper.files()["references.bib"]


def test_a_head_in_closed_form_is_bounded_by_the_formula_of_one_mechanism(fake_runs: Callable[..., FakeRuns]) -> None:
    unused = "full_learning_rate_at = 300"
    more = f'[train]\nparameters = "head"\noptimizer = "closed-form"\n{unused}\n[model]\ninit_weights = "given.pt"'
    paper = paper_of(fake_runs(("vindr",), more=more).study, [], "")
    assert "bounded by the exact formula of one Gaussian mechanism [balle2018]" in paper.text
    assert "learning rate" not in paper.text
    assert "@inproceedings{balle2018," in paper.files()["references.bib"]
    assert "privacy loss distributions" not in paper.text
