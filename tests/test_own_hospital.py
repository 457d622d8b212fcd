"""docs/own-hospital.md, followed literally; then what kind `table` accepts and what it says when it does not."""

import re
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

import dpdt
from dpdt.base.files import write_json
from dpdt.base.vocabulary import LABELS
from dpdt.cli import main
from dpdt.cohort.build import build_cohort
from dpdt.cohort.table import read_cohort, read_record
from dpdt.errors import CohortError, DpdtError, PrivacyError, StudyError
from dpdt.jobs.plan import look_ahead
from dpdt.jobs.submit import submit
from dpdt.report.provenance import people
from dpdt.study import Study, load_study

PAGE = Path(dpdt.__file__).parents[1] / "docs" / "own-hospital.md"


def block(language: str) -> str:
    """The page's first code block of a language."""
    found = re.search(rf"^```{language}\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    assert found is not None
    return found.group(1)


@pytest.fixture
def st_mary(tmp_path: Path) -> Path:
    """A folder with the page's list, its images and its study file."""
    (tmp_path / "st-mary").mkdir()
    (tmp_path / "st-mary" / "list.csv").write_text(block("csv"))
    (tmp_path / "study.toml").write_text(block("toml"))
    random = np.random.default_rng(0)
    for name in pd.read_csv(tmp_path / "st-mary" / "list.csv")["Filename"]:
        path = tmp_path / "st-mary" / "png" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), random.integers(0, 255, (40, 32), dtype=np.uint8))
    return tmp_path


def test_the_pages_command_prints_the_pages_table(
    st_mary: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(st_mary)
    command = block("sh").split()
    assert command[0] == "dpdt"
    with pytest.raises(SystemExit) as end:
        main(command[1:])
    assert end.value.code == 0
    printed = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    wanted = [line.rstrip() for line in block("text").splitlines()]
    start = printed.index(wanted[0])
    assert printed[start : start + len(wanted)] == wanted


def test_the_pages_rows_become_what_the_page_says(st_mary: Path) -> None:
    study = load_study(st_mary / "study.toml")
    build_cohort(study, "st_mary")
    table = read_cohort(study, "st_mary").set_index("image_id")
    exclusions = pd.read_csv(study.paths.cohort_exclusions("st_mary")).set_index("image_id")["reason"].to_dict()
    assert exclusions == {"a/0002.png": "view lat", "b/0010.png": "view unknown"}
    first = table.loc["a/0001.png"]
    assert first["path"] == "png/a/0001.png"
    assert (first["patient_id"], first["study_id"], first["view"], first["sex"]) == ("7001", "A100", "PA", "female")
    assert first["age_years"] == pytest.approx(68.9, abs=0.05)  # born 1951-03-12, taken 2020-01-30
    assert first[list(LABELS)].tolist() == [1, 1, 0, 1, 0]
    assert pd.isna(table.loc["a/0004.png", "cardiomegaly"])
    assert table.loc["b/0006.png", "sex"] == "unknown"
    assert np.isnan(table.loc["b/0006.png", "age_years"])
    assert table["split"].value_counts().to_dict() == {"train": 5, "test": 2, "val": 1}
    assert read_record(study, "st_mary")["policies"]["test"] == "official"


def test_the_pages_images_become_shards(st_mary: Path) -> None:
    pytest.importorskip("dpdt._core")
    from dpdt.shards.build import build_shards

    file = st_mary / "study.toml"
    file.write_text(file.read_text() + "[shards]\nsize = 16\n")
    study = load_study(file)
    build_cohort(study, "st_mary")
    build_shards(study, "st_mary")
    assert len(pd.read_parquet(study.paths.shards("st_mary").index)) == 8


# ---- other shapes of the list ----

PLAIN = """
[domains.own]
kind = "table"
root = "."
missing_images = "later"
[domains.own.table]
file = "list.csv"
image = "image"
patient = "patient"
sex = "sex"
age = "age"
[domains.own.table.labels]
cardiomegaly = { column = "heart" }
healthy = { column = "healthy" }
"""
ROWS = pd.DataFrame(
    {
        "image": [f"{n}.png" for n in range(40)],
        "patient": [f"p{n // 2}" for n in range(40)],
        "sex": ["F", "male", "", "M"] * 10,
        "age": ["58", "090+", "012Y", "unclear"] * 10,
        "heart": ["1", "0", "", "0"] * 10,
        "healthy": ["0", "1", "1", "0"] * 10,
    }
)


def own(folder: Path, *changes: tuple[str, str], rows: pd.DataFrame = ROWS) -> Study:
    text = PLAIN
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    (folder / "study.toml").write_text(text)
    rows.to_csv(folder / "list.csv", index=False)
    return load_study(folder / "study.toml")


def test_defaults_read_a_plain_list_and_split_by_patient(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = own(tmp_path)
    build_cohort(study, "own")
    table = read_cohort(study, "own").set_index("image_id").loc[[f"{n}.png" for n in range(4)]]
    assert table["sex"].tolist() == ["female", "male", "unknown", "male"]
    np.testing.assert_equal(table["age_years"].to_numpy(), [58, 90, 12, np.nan])
    assert table["cardiomegaly"].tolist() == [1, 0, pd.NA, 0]
    assert table["pneumonia"].isna().all()
    assert set(table["view"]) == {"frontal"}
    notes = {row["value"]: row["images"] for row in read_record(study, "own")["counts"] if row["what"] == "note"}
    assert notes["age not understood or impossible, unknown"] == 10
    assert notes["pneumonia unknown in every image"] == 40
    assert notes["images not found"] == 40
    views = "every image taken as frontal, lateral ones too: the list has no column of views"
    assert f"Policies: views: {views};" in capsys.readouterr().out
    assert read_record(study, "own")["policies"]["test"] == "patients by hash, seed 0, test_fraction 0.2"


def test_ages_of_which_none_is_understood_are_an_error_with_a_cell(tmp_path: Path) -> None:
    study = own(tmp_path, rows=ROWS.assign(age="adult"))
    with pytest.raises(CohortError, match=r"column 'age': none of 40 cells is understood, the first is 'adult' .row 2"):
        build_cohort(study, "own")
    dates = ('age = "age"', 'birth_date = "born"\nstudy_date = "taken"')
    swapped = ROWS.assign(born="2020-02-01", taken="1950-01-31")
    with pytest.raises(CohortError, match=r"years from 'born' to 'taken': none of 40 cells .* first is '-70\.0'"):
        build_cohort(own(tmp_path, dates, rows=swapped), "own")


@pytest.mark.parametrize("suffix", ["csv.gz", "tsv", "parquet", "latin"])
def test_csv_compressed_tabs_parquet_and_other_encodings_read_the_same(suffix: str, tmp_path: Path) -> None:
    study = own(tmp_path)
    build_cohort(study, "own")
    wanted = read_cohort(study, "own")
    other = tmp_path / "other"
    other.mkdir()
    name = f"list.{'csv' if suffix == 'latin' else suffix}"
    extra = '\nseparator = ";"\nencoding = "latin-1"' if suffix == "latin" else ""
    study = own(other, ('file = "list.csv"', f'file = "{name}"{extra}'))
    rows = ROWS.assign(sex=ROWS["sex"].replace("", "unknown"))
    if suffix == "parquet":
        typed = rows.assign(
            heart=pd.to_numeric(rows["heart"]), healthy=rows["healthy"] == "1"
        )  # floats with NaN, bools
        typed.to_parquet(other / name)
    elif suffix == "latin":
        rows.assign(note="Größe").to_csv(other / name, index=False, sep=";", encoding="latin-1")
    else:
        rows.to_csv(other / name, index=False, sep="\t" if suffix == "tsv" else ",")
    build_cohort(study, "own")
    pd.testing.assert_frame_equal(read_cohort(study, "own"), wanted)


@pytest.mark.parametrize(("rule", "labels"), [("unknown", [None, None]), ("negative", [0, 0]), ("healthy", [0, 1])])
def test_an_empty_findings_cell_means_what_the_study_file_says(
    rule: str, labels: list[int | None], tmp_path: Path
) -> None:
    rows = ROWS.assign(found=["Effusion | Other", "", "normal", "EFFUSION"] * 10)
    study = own(
        tmp_path,
        (
            'healthy = { column = "healthy" }',
            'healthy = { findings = ["Normal"] }\npleural_effusion = { findings = ["effusion"] }',
        ),
        ('age = "age"', f'age = "age"\nfindings = "found"\nfindings_separator = "|"\nno_findings = "{rule}"'),
        rows=rows,
    )
    build_cohort(study, "own")
    table = read_cohort(study, "own").set_index("image_id")
    assert table.loc[["0.png", "3.png"], "pleural_effusion"].tolist() == [1, 1]
    assert table.loc["2.png", ["pleural_effusion", "healthy"]].tolist() == [0, 1]
    empty = table.loc["1.png", ["pleural_effusion", "healthy"]].tolist()
    assert [None if pd.isna(value) else value for value in empty] == labels


def test_ids_that_differ_only_in_spelling_are_one_patient(tmp_path: Path) -> None:
    """LB-04 of the collected user reports: the same patient on both sides of a split."""
    spelled = [f"{'00' * (n % 2)}{n // 4 + 1}" for n in range(40)]
    study = own(tmp_path, rows=ROWS.assign(patient=spelled))
    assert build_cohort(study, "own").patients == 10
    table = read_cohort(study, "own")
    assert (table.groupby("patient_id")["split"].nunique() == 1).all()
    notes = {row["value"]: row["images"] for row in read_record(study, "own")["counts"] if row["what"] == "note"}
    assert notes["spellings of a patient's id made one"] == 10


@pytest.mark.parametrize(
    "cell", ["nan", "NaN", "NULL", "None", "NA", "n/a", "<NA>", "#N/A", "-", "??", "unknown", "1.23457E+12", "1,2e+11"]
)
def test_a_cell_that_names_nobody_is_never_a_patient(cell: str, tmp_path: Path) -> None:
    """Read as text such cells were one patient: many people with one split and one patient's epsilon."""
    study = own(tmp_path, rows=ROWS.assign(patient=[cell] * 5 + [f"p{n}" for n in range(35)]))
    with pytest.raises(CohortError, match=rf"the patient of 5 rows is '{re.escape(cell)}' \(first in row 2 of"):
        build_cohort(study, "own")


@pytest.mark.parametrize("cell", ["0", "12E3", "Nana", "NA1", "null-7", "A+", "1.5"])
def test_an_id_that_only_looks_like_a_placeholder_is_a_patient(cell: str, tmp_path: Path) -> None:
    study = own(tmp_path, rows=ROWS.assign(patient=[cell] * 2 + [f"p{n}" for n in range(38)]))
    assert build_cohort(study, "own").patients == 39


def test_rows_without_a_patient_are_told_all_at_once_with_what_else_is_wrong(tmp_path: Path) -> None:
    """A list that ends with its sum, as spreadsheets have it."""
    rows = ROWS.assign(patient=["", *ROWS["patient"][1:]], sex=["F", "X", *ROWS["sex"][2:]])
    total = pd.DataFrame([dict.fromkeys(ROWS, "") | {"image": "Total: 400"}])
    with pytest.raises(CohortError) as err:
        build_cohort(own(tmp_path, rows=pd.concat([rows, total])), "own")
    told = str(err.value)
    assert (
        "rows 2, 42: column 'patient' (patient) is empty. Fill it in, or take what is no image's row, such as" in told
    )
    assert "column 'sex': 1 cells are not explained: 'X' (row 3)" in told


def test_ages_with_their_unit_in_words_are_read(tmp_path: Path) -> None:
    rows = ROWS.assign(age=["39 años", "18 meses", "45 Jahre", "7 ans"] * 10)
    build_cohort(own(tmp_path, rows=rows), "own")
    ages = read_cohort(own(tmp_path, rows=rows), "own").set_index("image_id")["age_years"]
    assert ages[["0.png", "1.png", "2.png", "3.png"]].tolist() == [39.0, 1.5, 45.0, 7.0]


def test_blanks_are_refused_in_parquet_too(tmp_path: Path) -> None:
    study = own(tmp_path, ('"list.csv"', '"list.parquet"'))
    ROWS.assign(patient=[None, *range(39)]).astype({"patient": "Int64"}).to_parquet(tmp_path / "list.parquet")
    with pytest.raises(CohortError, match=r"row 1: column 'patient' \(patient\) is empty"):
        build_cohort(study, "own")


def test_a_patient_with_very_many_images_is_told_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = own(tmp_path, rows=ROWS.assign(patient=["tbd"] * 21 + [f"p{n}" for n in range(19)]))
    build_cohort(study, "own")
    assert "warning: own: one patient has 21 of 40 images. Is this id a placeholder" in capsys.readouterr().err


def test_two_domains_of_one_list_are_told_of_only_where_they_share_patients(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    second = PLAIN.replace("domains.own", "domains.again")
    own(tmp_path)
    (tmp_path / "study.toml").write_text(PLAIN + second)
    study = load_study(tmp_path / "study.toml")
    build_cohort(study, "own")
    assert "share" not in capsys.readouterr().err
    build_cohort(study, "again")
    assert "warning: again and own read the same list and share 20 patients" in capsys.readouterr().err
    other = ROWS.assign(image=ROWS["image"] + ".png")  # another list with patients of the same names: other people
    other.to_csv(tmp_path / "other.csv", index=False)
    (tmp_path / "study.toml").write_text(PLAIN + second.replace("list.csv", "other.csv"))
    study = load_study(tmp_path / "study.toml")
    study.paths.cohort_record("again").unlink()
    build_cohort(study, "again")
    assert "share" not in capsys.readouterr().err


def test_a_copy_of_the_private_list_cannot_be_the_public_one(tmp_path: Path) -> None:
    """What is pretrained on has no DP; the same patients trained on with DP would have no epsilon."""
    second = PLAIN.replace("domains.own", "domains.again").replace('root = "."', 'root = "copy"\nrole = "public"')
    own(tmp_path)
    (tmp_path / "copy").mkdir()
    ROWS.to_csv(tmp_path / "copy" / "list.csv", index=False)
    (tmp_path / "study.toml").write_text(PLAIN + second)
    study = load_study(tmp_path / "study.toml")
    build_cohort(study, "again")
    with pytest.raises(PrivacyError, match=r"own and again read the same list and share 20 patients, .* public"):
        build_cohort(study, "own")
    assert not study.paths.cohort_record("own").exists()
    with pytest.raises(PrivacyError, match=r"share 20 patients"):  # and again, not "done"
        build_cohort(study, "own")


def test_an_official_split_that_parts_two_spellings_is_an_error(tmp_path: Path) -> None:
    rows = ROWS.assign(patient=["p 1", "P1", *ROWS["patient"][2:]], part=["train", "test", *["train"] * 38])
    study = own(tmp_path, ('age = "age"', 'age = "age"\nsplit = "part"'), rows=rows)
    with pytest.raises(CohortError, match=r"own: 1 patients are in more than one split"):
        build_cohort(study, "own")
    with pytest.raises(SystemExit) as end:
        main(["cohort", str(tmp_path / "study.toml")])
    assert end.value.code == 1


# ---- what it says when something is wrong ----


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('patient = "patient"', "", r"domains\.own\.table\.patient: missing\. Add it to the study file"),
        ('file = "list.csv"', "", r"domains\.own\.table\.file: missing"),
        (
            'sex = "sex"',
            'sexx = "sex"',
            r"own\.table\.sexx: unknown key\. Did you mean 'sex'\? Valid keys: file",
        ),
        ("cardiomegaly =", "heart =", r"labels\.heart: unknown key\. .*Valid keys: cardiomegaly, pleural_effusion"),
        ("cardiomegaly =", "pneumothorax =", r"labels\.pneumothorax: unknown key\. Valid keys: cardiomegaly"),
        ("cardiomegaly =", "cardiomegally =", r"labels\.cardiomegally: unknown key\. Did you mean 'cardiomegaly'\?"),
        ('{ column = "heart" }', "{ colum = 1 }", r"cardiomegaly\.colum: unknown key\. Did you mean 'column'\?"),
        ('{ column = "heart" }', "{}", r"labels\.cardiomegaly: give either column = "),
        (
            '{ column = "heart" }',
            '{ column = "heart", positive = ["0"] }',
            r"'0' is listed as positive and as neg",
        ),
        ('{ column = "heart" }', '{ findings = ["x"] }', r"labels\.cardiomegaly has findings = .*add findings = "),
        ('age = "age"', 'age = "age"\nbirth_date = "b"', r"give age, or birth_date and study_date, not both"),
        ('age = "age"', 'birth_date = "b"', r"birth_date and study_date belong together"),
        ('age = "age"', 'findings = "f"', r"no label has findings"),
        ('kind = "table"', 'kind = "uka"', r"\[domains\.own\.table\] belongs to kind = \"table\", this .* kind 'uka'"),
        (
            'kind = "table"',
            'kind = "table"\nsublabels = { pneumonia = ["x"] }',
            r"own\.sublabels: only for kind pad",
        ),
        ('kind = "table"', 'kind = "table"\nreaders = "any"', r"own\.readers: only for kind vindr, this domain is of"),
    ],
)
def test_a_mistake_in_the_study_file_gets_one_clear_line(old: str, new: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=message) as caught:
        own(tmp_path, (old, new))
    assert "\n" not in str(caught.value)


def test_kind_table_without_its_table_names_the_page(tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text('[domains.own]\nkind = "table"\nroot = "."')
    with pytest.raises(StudyError, match=r'kind = "table" needs \[domains.own.table\], see docs/own-hospital.md'):
        load_study(tmp_path / "study.toml")


@pytest.mark.parametrize(
    ("column", "cells", "message"),
    [
        ("patient", {3: ""}, r"list\.csv: row 5: column 'patient' \(patient\) is empty"),
        ("image", {5: " "}, r"list\.csv: row 7: column 'image' \(image\) is empty"),
        (
            "image",
            {5: "4.png"},
            r"1 rows repeat an image\. .*row 6: sex 'F', age '58', .*row 7: sex 'male'.* rows = \"any\", \"majority\"",
        ),
        ("sex", {2: "X"}, r"column 'sex': 1 cells are not explained: 'X' \(row 4\).*table.sexes"),
        ("heart", {9: "maybe"}, r"'heart': 1 cells are not explained: 'maybe' .row 11.*positive, negative or"),
    ],
)
def test_a_cell_that_is_wrong_is_named_with_its_row(
    column: str, cells: dict[int, str], message: str, tmp_path: Path
) -> None:
    values = ROWS[column].tolist()
    for row, cell in cells.items():
        values[row] = cell
    with pytest.raises(CohortError, match=message):
        build_cohort(own(tmp_path, rows=ROWS.assign(**{column: values})), "own")


def test_missing_file_column_date_and_finding_are_named(tmp_path: Path) -> None:
    study = own(tmp_path)
    (tmp_path / "list.csv").unlink()
    with pytest.raises(CohortError, match=r"list\.csv: no such file\. Correct `root`, or `file`"):
        build_cohort(study, "own")
    with pytest.raises(CohortError, match=r"no column 'patient' \(patient\); found 'image', 'MRN'"):
        build_cohort(own(tmp_path, rows=ROWS.rename(columns={"patient": "MRN"})), "own")
    dates = ('age = "age"', 'birth_date = "born"\nstudy_date = "taken"')
    rows = ROWS.assign(born="1950-01-31", taken=["2020-02-01", "3.2.2020"] * 20)
    with pytest.raises(
        CohortError, match=r"'taken': 20 cells are no date of the form ISO 8601.*'3\.2\.2020' \(row 3\).*date_format"
    ):
        build_cohort(own(tmp_path, dates, rows=rows), "own")
    found = ('{ column = "heart" }', '{ findings = ["Cardiomegly"] }')
    column = ('age = "age"', 'age = "age"\nfindings = "found"')
    with pytest.raises(CohortError, match=r"no row has the finding 'Cardiomegly' of cardiomegaly; found cardiomegaly"):
        build_cohort(own(tmp_path, found, column, rows=ROWS.assign(found="Cardiomegaly;")), "own")


def test_the_mapping_is_part_of_the_fingerprint(tmp_path: Path) -> None:
    before = own(tmp_path).cohort_fingerprint("own")
    after = own(tmp_path, ('{ column = "heart" }', '{ column = "heart", unknown = ["", "2"] }')).cohort_fingerprint(
        "own"
    )
    assert before != after


def test_files_key_and_wrong_separator_are_answered(tmp_path: Path) -> None:
    study = own(tmp_path, ('kind = "table"', 'kind = "table"\nfiles = { table = "x.csv" }'))
    with pytest.raises(StudyError, match=r"domains.own.files: belongs to published layouts"):
        build_cohort(study, "own")
    study = own(tmp_path)
    ROWS.to_csv(tmp_path / "list.csv", index=False, sep=";")
    with pytest.raises(CohortError, match=r"no column 'image' \(image\); found .* set separator = \";\""):
        build_cohort(study, "own")


def test_byte_order_mark_of_a_spreadsheet_is_no_part_of_a_name(tmp_path: Path) -> None:
    study = own(tmp_path)
    ROWS.to_csv(tmp_path / "list.csv", index=False, encoding="utf-8-sig")
    assert build_cohort(study, "own").images == 40


def test_rows_that_end_with_a_separator_keep_every_cell_below_its_name(tmp_path: Path) -> None:
    """pandas would take the images for an index and read every label one column further on."""
    study = own(tmp_path)
    whole = ROWS.to_csv(index=False)
    build_cohort(study, "own")
    expected = read_cohort(study, "own")
    header, *rows = whole.replace("sex", "note,sex", 1).splitlines()
    cells = [row.split(",") for row in rows]
    text = "\n".join([header, *(",".join([*row[:2], "-", *row[2:], ""]) for row in cells)])
    (tmp_path / "list.csv").write_text(f"{text}\n")
    study.paths.cohort_record("own").unlink()
    build_cohort(study, "own")
    pd.testing.assert_frame_equal(read_cohort(study, "own"), expected)


@pytest.mark.parametrize(
    ("found", "put", "message"),
    [
        ("1.png,p0,male,090+,0,1", "1.png,p0,male,about 70, or 80,0,1", r"row 3: 7 cells, expected 6 as in the header"),
        ("39.png,p19,M,unclear,0,0\n", "39.png,p19,M,unc", r"row 41: 4 cells, expected 6 as in the header"),
        ("patient,sex,age,heart,healthy", "patient,sex,age,heart,heart", r"2 columns are named 'heart', expected one"),
    ],
)
def test_rows_without_a_cell_a_column_are_named(found: str, put: str, message: str, tmp_path: Path) -> None:
    """A text's unquoted comma moves the row's labels; a file cut off has blank ones."""
    extra = ('healthy = { column = "healthy" }', "") if "heart,heart" in put else ("[domains.own]", "[domains.own]")
    study = own(tmp_path, extra)
    whole = (tmp_path / "list.csv").read_text()
    assert found in whole
    (tmp_path / "list.csv").write_text(whole.replace(found, put))
    with pytest.raises(CohortError, match=message):
        build_cohort(study, "own")


def test_a_separator_inside_quotation_marks_parts_nothing(tmp_path: Path) -> None:
    study = own(tmp_path, rows=ROWS.assign(age=["1,5\nor 2", *["50"] * 39]))
    table = (build_cohort(study, "own"), read_cohort(study, "own"))[1].set_index("image_id")
    assert np.isnan(table.loc["0.png", "age_years"])
    assert table.loc["0.png", "cardiomegaly"] == 1


def test_a_number_with_and_without_point_zero_is_one_patient(tmp_path: Path) -> None:
    """What two exports of a number look like in one list: pandas writes a column with a gap as 12.0."""
    numbers = [f"{n // 4 + 1}" + ".0" * (n % 2) for n in range(40)]
    study = own(tmp_path, rows=ROWS.assign(patient=numbers))
    assert build_cohort(study, "own").patients == 10
    assert (read_cohort(study, "own").groupby("patient_id")["split"].nunique() == 1).all()


@pytest.mark.parametrize("place", ["in its root", "elsewhere"])
def test_a_list_that_was_corrected_since_is_not_passed_over(
    place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / ("list.csv" if place == "in its root" else "lists/list.csv")
    table.parent.mkdir(exist_ok=True)
    root = tmp_path if place == "in its root" else tmp_path / "images"
    root.mkdir(exist_ok=True)
    study = own(tmp_path, ('root = "."', f'root = "{root}"'), ('file = "list.csv"', f'file = "{table}"'))
    ROWS.to_csv(table, index=False)
    assert build_cohort(study, "own").built
    assert not build_cohort(study, "own").built
    capsys.readouterr()
    submit(study, cluster="debug", dry_run=True)
    assert "changed since" not in capsys.readouterr().err
    write_json(study.paths.run("own-1").config, {"domain": "own"})  # without it the cohort is built anew
    ROWS.assign(heart=ROWS["healthy"]).to_csv(table, index=False)
    changed = f"{table}: changed since the cohort of own was built from it"
    with pytest.raises(CohortError, match=f"^{re.escape(changed)}"):
        build_cohort(study, "own")
    submit(study, cluster="debug", dry_run=True)
    assert f"warning: {changed}" in capsys.readouterr().err
    for command in ("status", "plan", "report"):
        with pytest.raises((SystemExit, DpdtError)):  # of the report: no model is trained
            main([command, str(study.file)])
        assert f"warning: {changed}" in capsys.readouterr().err, command
    table.unlink()  # the raw data need not stay
    assert not build_cohort(study, "own").built
    ROWS.to_csv(table, index=False)
    assert not build_cohort(study, "own").built


def test_the_same_people_in_two_own_lists_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two years of one hospital as two domains: p10 to p19 are in both, written in another way."""
    ROWS.to_csv(tmp_path / "list.csv", index=False)
    later = ROWS["patient"].map(lambda patient: f" P{int(patient[1:]) + 10} ")
    ROWS.assign(patient=later).to_csv(tmp_path / "later.csv", index=False)
    text = PLAIN + PLAIN.replace("domains.own", "domains.later").replace("list.csv", "later.csv")
    (tmp_path / "study.toml").write_text(text)
    study = load_study(tmp_path)
    submit(study, cluster="debug", dry_run=True)
    assert "same id" not in capsys.readouterr().err  # nothing is known yet
    for domain in ("own", "later"):
        build_cohort(study, domain)
    table = read_cohort(study, "own")
    both = table.loc[table["split"] == "train", "patient_id"].unique()
    count = sum(int(patient[1:]) >= 10 for patient in both)
    assert 0 < count < 10
    told = f"own and later: {count} train patients have the same id in both."
    submit(study, cluster="debug", dry_run=True)
    assert told in " ".join(capsys.readouterr().err.split())
    assert any(warning.startswith(told) for warning in look_ahead(study).warnings)
    assert f"in training ({count} of them have the id of one at another of these hospitals" in people(study, [])
