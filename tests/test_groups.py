"""`[evaluate.groups]`: any column cut into parts, crossings by name, and what is measured and compared on them."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError

from dpdt.base.vocabulary import LABELS, SUBGROUPS
from dpdt.errors import StudyError
from dpdt.evaluation.metrics import Threshold, measure_domain, own_groups, papers_groups, patient_draws
from dpdt.study import Study, load_study
from dpdt.study.settings import GroupSettings

WARDS = ["ICU", "A 1", "icu ", "", "unknown", "B"]


def study(tmp_path: Path, text: str, domain: str = "padchest") -> Study:
    file = tmp_path / "study.toml"
    file.write_text(f'[domains.{domain}]\nroot = "x"\ncolumns = {{ ward = "Station" }}\n[evaluate.groups]\n{text}')
    return load_study(file)


@pytest.fixture
def cohort() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "sex": ["female", "male", "unknown", "female", "male", "female"],
            "age_years": [0.0, 17.9, 18.0, 64.0, 65.0, np.nan],
            "ward": WARDS,
            "bmi": ["18,4", "31.5", "", "x", "25", "30"],
        }
    )


def test_columns_are_cut_by_words_edges_and_named_parts(tmp_path: Path, cohort: pd.DataFrame) -> None:
    groups = """
sex = "sex"
age = { column = "age_years", cuts = [0, 18, 65, 100] }
ward = "ward"
beds = { column = "ward", parts = { intensive = ["icu"], normal = ["a 1", "B"] } }
"""
    found = own_groups(study(tmp_path, groups).evaluate.groups, cohort)
    assert found.attributes == {
        "sex": ("female", "male"),
        "age": ("age_0_18", "age_18_65", "age_65_100"),
        "ward": ("ward_a_1", "ward_b", "ward_icu"),
        "beds": ("beds_intensive", "beds_normal"),
    }
    rows = {part: np.flatnonzero(mask).tolist() for part, mask in found.masks.items()}
    assert rows["all"] == [0, 1, 2, 3, 4, 5]
    assert (rows["female"], rows["male"]) == ([0, 3, 5], [1, 4])
    assert (rows["age_0_18"], rows["age_18_65"], rows["age_65_100"]) == ([0, 1], [2, 3], [4])
    assert (rows["ward_icu"], rows["ward_a_1"], rows["ward_b"]) == ([0, 2], [1], [5])  # blank, unknown: in no part
    assert (rows["beds_intensive"], rows["beds_normal"]) == ([0, 2], [1, 5])


def test_numbers_as_text_are_cut_too_and_what_is_none_is_in_no_part(tmp_path: Path, cohort: pd.DataFrame) -> None:
    text = 'bmi = { column = "ward", cuts = [0, 25, 30.5, 80] }\n'
    groups = {"bmi": study(tmp_path, text).evaluate.groups["bmi"].model_copy(update={"column": "bmi"})}
    rows = {part: np.flatnonzero(mask).tolist() for part, mask in own_groups(groups, cohort).masks.items()}
    assert rows == {"all": [0, 1, 2, 3, 4, 5], "bmi_0_25": [0], "bmi_25_30_5": [4, 5], "bmi_30_5_80": [1]}


def test_cuts_of_a_column_without_a_number_are_refused(tmp_path: Path, cohort: pd.DataFrame) -> None:
    groups = study(tmp_path, 'beds = { column = "ward", cuts = [0, 25, 60] }\n').evaluate.groups
    words = cohort.assign(ward=cohort["ward"].replace("A 1", "A"))
    with pytest.raises(StudyError, match=r"beds: cuts are for numbers, and none of the 4 cells of 'ward' is one"):
        own_groups(groups, words)
    blank = own_groups(groups, cohort.assign(ward=""))  # a domain without the column
    assert not blank.masks["beds_0_25"].any()


def test_a_crossing_has_each_pair_of_parts(tmp_path: Path, cohort: pd.DataFrame) -> None:
    text = 'age = { column = "age_years", cuts = [0, 65, 100] }\nsex = "sex"\nsex_by_age = ["sex", "age"]\n'
    found = own_groups(study(tmp_path, text).evaluate.groups, cohort)
    assert found.attributes["sex_by_age"] == (
        *("female_age_0_65", "female_age_65_100", "male_age_0_65", "male_age_65_100"),
    )
    assert np.flatnonzero(found.masks["female_age_0_65"]).tolist() == [0, 3]
    assert np.flatnonzero(found.masks["male_age_65_100"]).tolist() == [4]
    assert not found.masks["female_age_65_100"].any()  # an empty group is measured as one


def test_the_papers_groups_are_what_they_were() -> None:
    frame = pd.DataFrame({"sex": ["female", "unknown"], "age_group": ["age_0_40", "age_70_100"]})
    found = papers_groups(frame)
    crossings = [f"{sex}_{age}" for sex in ("female", "male") for age in ("age_0_40", "age_40_70", "age_70_100")]
    assert [*found.masks] == ["all", *SUBGROUPS, *crossings]
    assert found.compared == {"all", *SUBGROUPS}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            'x = "scanner"\n',
            r"evaluate\.groups\.x: no domain has the column 'scanner'\. Every cohort has sex, age_years",
        ),
        ('x = "scanner"\n', r"these domains have manufacturer, ward\. Name one of a list: \[domains\.<name>\] columns"),
        ('x = ["sex", "age"]\n', r"groups\.x: 'sex' is no group with a column\. Groups with one: none"),
        (
            'sex = "sex"\nx = ["sex", "sex"]\n',
            r"groups\.x: expected at least two groups, each once, got \['sex', 'sex'\]",
        ),
        ('sex = "sex"\nx = ["sex"]\n', r"groups\.x: expected at least two groups"),
        ('all = "sex"\n', r"groups: 'all' is a word of dpdt's own tables"),
        ('Sex = "sex"\n', r"groups: 'Sex': expected small letters"),
        ("x = { column = 'age_years', cuts = [40] }\n", r"cuts: expected at least two edges that rise.*got \[40\.0\]"),
        ("x = { column = 'age_years', cuts = [40, 20] }\n", r"expected at least two edges that rise"),
        ("x = { cuts = [40, 60] }\n", r"give a column"),
        ("x = { column = 'sex', cuts = [0, 1], parts = { a = ['b'] } }\n", r"give cuts, parts, or groups to cross"),
    ],
)
def test_a_group_that_cannot_be_is_one_clear_line(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=message):
        study(tmp_path, text)


@pytest.mark.parametrize(
    "cells",
    [
        pd.Series(["icu", None, "b"]),
        pd.Series(["icu", None, "b"], dtype=object),
        pd.Series(["icu", pd.NA, "b"], dtype="string"),
        pd.Series(["icu", None, "b"], dtype="category"),
    ],
)
def test_a_missing_cell_is_in_no_part(cells: pd.Series) -> None:
    """A null of Parquet is no word, as a blank cell is none."""
    found = own_groups({"ward": GroupSettings(column="ward")}, pd.DataFrame({"ward": cells}))
    masks = {name: mask.tolist() for name, mask in found.masks.items()}
    assert masks == {"all": [True] * 3, "ward_b": [False, False, True], "ward_icu": [True, False, False]}


@pytest.mark.parametrize("kind", ["float64", "Int64"])
def test_a_domain_without_any_age_is_in_no_age_group(kind: str) -> None:
    group = GroupSettings(column="age_years", cuts=(0, 18, 100))
    found = own_groups({"age": group}, pd.DataFrame({"age_years": pd.Series([None, None], dtype=kind)}))
    assert {name: int(mask.sum()) for name, mask in found.masks.items()} == {"all": 2, "age_0_18": 0, "age_18_100": 0}


def test_ids_are_no_groups(tmp_path: Path) -> None:
    groups = study(tmp_path, 'ward = "ward"\n').evaluate.groups
    many = pd.DataFrame({"ward": [f"w{n}" for n in range(31)]})
    with pytest.raises(
        StudyError, match=r"the column 'ward' has 31 different cells, expected at most 30\. Name its parts"
    ):
        own_groups(groups, many)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["ER+", "er+ ", "ER-"],
            r"the cell 'ER-' of 'ward' has the name of 'ER\+'\. Name the parts: ward = \{ column =",
        ),
        (["A", "内科"], r"the cell '内科' of 'ward' has no letter from a to z\. Name the parts"),
    ],
)
def test_words_that_a_name_cannot_tell_apart_are_not_put_together(
    words: list[str], message: str, tmp_path: Path
) -> None:
    groups = study(tmp_path, 'ward = "ward"\n').evaluate.groups
    with pytest.raises(StudyError, match=message):
        own_groups(groups, pd.DataFrame({"ward": words}))


def test_two_parts_of_one_name_are_refused(tmp_path: Path, cohort: pd.DataFrame) -> None:
    groups = study(
        tmp_path, 'a = { column = "ward", parts = { b_c = ["x"] } }\na_b = { column = "ward", parts = { c = ["x"] } }\n'
    )
    with pytest.raises(StudyError, match=r"evaluate\.groups\.a_b: the part 'a_b_c' has the name of another"):
        own_groups(groups.evaluate.groups, cohort)


def frame_of(n: int, labels: tuple[str, ...]) -> pd.DataFrame:
    random = np.random.default_rng(0)
    frame = pd.DataFrame({"image_id": [str(k) for k in range(n)], "patient_key": [f"p{k // 2}" for k in range(n)]})
    frame = frame.assign(sex=random.choice(["female", "male"], n), age_group="age_40_70")
    for label in labels:
        target = random.integers(0, 2, n).astype(float)
        frame[f"target_{label}"], frame[f"score_{label}"] = target, random.random(n) * 0.7 + 0.2 * target
    return frame


def measured(frame: pd.DataFrame, labels: tuple[str, ...], **options: object) -> pd.DataFrame:
    thresholds = {label: Threshold(0.5, "val", 50, 25) for label in labels}
    weights = patient_draws(frame["patient_key"].to_numpy(), draws=30, seed=0, domain="d")
    return measure_domain(  # type: ignore[arg-type]
        frame, test_domain="d", thresholds=thresholds, weights=weights, minimum=10, confidence=0.95, **options
    ).table


def test_own_groups_have_metrics_and_fairness_and_small_ones_are_flagged(tmp_path: Path) -> None:
    labels = ("edema", "mass")
    frame = frame_of(200, labels)
    cohort = pd.DataFrame({"ward": ["icu"] * 150 + ["a"] * 45 + ["b"] * 5})
    groups = own_groups(study(tmp_path, 'ward = "ward"\n').evaluate.groups, cohort)
    table = measured(frame, labels, groups=groups)
    assert set(table["subgroup"]) == {"all", "ward_icu", "ward_a", "ward_b", "ward"}
    auc = table[(table["metric"] == "auc") & (table["label"] == "edema")].set_index("subgroup")
    assert (auc.loc["ward_icu", "n"], auc.loc["ward_a", "n"], auc.loc["ward_b", "n"]) == (150, 45, 5)
    assert np.isnan(auc.loc["ward_b", "value"])
    assert auc.loc["ward_b", "reason"] == "5 images, fewer than 10"
    gap = table[(table["metric"] == "auc_gap") & (table["label"] == "edema")].set_index("subgroup").loc["ward"]
    values = auc.loc[["ward_icu", "ward_a"], "value"]
    assert gap["value"] == pytest.approx(values.max() - values.min())
    assert "small: ward_a (n = 45)" in gap["reason"]
    assert not table["metric"].isin(["underdiagnosis_rate", "underdiagnosis_gap"]).any()  # no label says healthy


def test_underdiagnosis_is_of_the_label_that_says_that_nothing_was_found() -> None:
    labels = ("edema", "no_finding")
    table = measured(frame_of(200, labels), labels)
    rate = table[table["metric"] == "underdiagnosis_rate"]
    assert set(rate["label"]) == {"no_finding"}
    of_all = (rate["subgroup"] == "all") & (rate["protocol"] == "strict")
    specificity = table[
        (table["metric"] == "specificity") & (table["label"] == "no_finding") & (table["subgroup"] == "all")
    ]
    assert rate[of_all]["value"].item() == pytest.approx(
        1 - specificity[specificity["protocol"] == "strict"]["value"].item()
    )


def test_labels_stand_in_the_studys_order_and_a_permutation_changes_no_number() -> None:
    labels = ("mass", "edema", "hernia")
    frame = frame_of(200, labels)
    one, other = measured(frame, labels), measured(frame, labels[::-1])
    assert [*one["label"].unique()] == [*labels, "average"]
    key = ["label", "subgroup", "metric", "protocol"]
    both = one.merge(other, on=key, suffixes=("", "_other"))
    assert len(both) == len(one) == len(other)
    assert np.allclose(both["value"], both["value_other"], equal_nan=True)


def test_labels_after_the_first_five_have_every_number_and_the_intervals_that_matter() -> None:
    labels = tuple(f"finding_{n}" for n in range(7))
    frame = frame_of(400, labels)
    table = measured(frame, labels).set_index(["label", "subgroup", "metric", "protocol"])
    first = measured(frame, labels[5:]).set_index(
        ["label", "subgroup", "metric", "protocol"]
    )  # the same two as main ones
    for name in labels[5:]:
        mine, main = table.loc[name], first.loc[name]
        assert np.allclose(mine["value"], main["value"].reindex(mine.index), equal_nan=True)
        for cell in (("all", "auc", ""), ("female", "sensitivity", "strict"), ("sex", "auc_gap", "")):
            assert mine.loc[cell, "ci_low"] == pytest.approx(main.loc[cell, "ci_low"])
            assert not np.isnan(mine.loc[cell, "ci_low"])
        for cell in (("all", "brier", ""), ("female_age_40_70", "auc", "")):
            assert np.isnan(mine.loc[cell, "ci_low"])
            assert mine.loc[cell, "reason"] == "no interval: not of the first 5 labels"
            assert not np.isnan(main.loc[cell, "ci_low"])
    average = table.loc["average"].loc[("all", "brier", "")]
    assert average["value"] == pytest.approx(np.mean([table.loc[(n, "all", "brier", "")]["value"] for n in labels]))


def test_the_papers_labels_and_groups_have_the_rows_that_they_had() -> None:
    table = measured(frame_of(200, LABELS), LABELS)
    assert [*table["label"].unique()] == [*LABELS, "average"]
    assert set(table[table["metric"] == "auc_gap"]["subgroup"]) == {"sex", "age_group"}


def test_a_domain_without_the_column_is_unknown_in_every_part(tmp_path: Path) -> None:
    groups = study(tmp_path, 'ward = { column = "ward", parts = { icu = ["icu"] } }\n').evaluate.groups
    found = own_groups(groups, pd.DataFrame({"sex": ["female"] * 3}))
    assert not found.masks["ward_icu"].any()


def test_a_cell_in_two_parts_is_refused() -> None:
    with pytest.raises(ValidationError, match="'er' is listed as emergency and as ward"):
        GroupSettings(column="ward", parts={"emergency": ("ER",), "ward": ("A", "er")})
