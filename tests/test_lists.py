"""Lists as people have them: workbooks, encodings, several rows an image, words, dates, and a second list of labels.

The right values are written beside the made-up lists: each list says the same as a plain CSV would.
"""

import datetime
import gzip
import json
import re
from pathlib import Path
from typing import Any

import openpyxl
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dpdt.cohort.build import build_cohort
from dpdt.cohort.lists.cells import cell_text
from dpdt.cohort.lists.rows import ListFile
from dpdt.cohort.table import read_cohort, read_record
from dpdt.errors import CohortError, StudyError
from dpdt.study import Study, load_study

STUDY = """
[domains.own]
kind = "table"
root = "."
missing_images = "later"
[domains.own.table]
file = "{file}"
image = "image"
patient = "patient"
{more}
[domains.own.table.labels]
{labels}
"""
HEART = 'cardiomegaly = { column = "heart" }'
PATIENTS = [f"p{n}" for n in range(20)]
DAMAGED_GZIP = gzip.compress(b"image,patient\n", mtime=0)[:10] + b"\xff" * 20
TWO_SPELLINGS = ("Vergr\u00f6\u00dferung", "VERGRO\u0308SSERUNG")
"""One word, with the letter ö and, as macOS writes it, with o and two dots."""


def study_of(folder: Path, file: str = "list.csv", more: str = "", labels: str = HEART) -> Study:
    (folder / "study.toml").write_text(STUDY.format(file=file, more=more, labels=labels), encoding="utf-8")
    return load_study(folder)


def built(study: Study) -> pd.DataFrame:
    build_cohort(study, "own")
    return read_cohort(study, "own").set_index("image_id")


def notes(study: Study) -> dict[str, int]:
    return {row["value"]: row["images"] for row in read_record(study, "own")["counts"] if row["what"] == "note"}


def rows_of(**columns: Any) -> pd.DataFrame:
    """Twenty images of twenty patients, half of them with an enlarged heart."""
    plain = {"image": [f"{n}.png" for n in range(20)], "patient": PATIENTS, "heart": ["1", "0"] * 10}
    return pd.DataFrame({**plain, **columns})


def write_book(path: Path, sheets: dict[str, list[list[Any]]], hidden: tuple[str, ...] = ()) -> openpyxl.Workbook:
    book = openpyxl.Workbook()
    book.remove(book.active)
    for title, rows in sheets.items():
        sheet = book.create_sheet(title)
        for row in rows:
            sheet.append(row)
        sheet.sheet_state = "hidden" if title in hidden else "visible"
    book.save(path)
    return book


# ---- files ----


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "cp1252", "mac_roman"])
def test_a_csv_in_any_encoding_reads_the_same(encoding: str, tmp_path: Path) -> None:
    text = rows_of().to_csv(index=False, sep=";").replace("image", "Größe", 1).replace("0.png", "röntgen_0.png", 1)
    (tmp_path / "list.csv").write_bytes(text.encode(encoding))
    marked = encoding in ("utf-8", "utf-8-sig", "utf-16")  # a mark says it, whatever the study file says
    more = 'separator = ";"' if marked else f'separator = ";"\nencoding = "{encoding}"'
    study = study_of(tmp_path, more=more)
    (tmp_path / "study.toml").write_text((tmp_path / "study.toml").read_text().replace('"image"', '"Größe"'))
    study = load_study(tmp_path)
    assert built(study).loc["röntgen_0.png", "cardiomegaly"] == 1


def test_text_of_two_bytes_a_letter_without_a_mark_is_not_taken_for_utf_8(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_bytes(rows_of().to_csv(index=False).encode("utf-16-le"))
    with pytest.raises(CohortError, match=r'zero bytes, so it is not text in utf-8\. .*encoding = "utf-16-le"'):
        build_cohort(study_of(tmp_path), "own")


def test_the_mark_of_a_spreadsheet_says_the_separator_and_is_no_row(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("sep=;\n" + rows_of(patient=["", *PATIENTS[1:]]).to_csv(index=False, sep=";"))
    with pytest.raises(CohortError, match=r"row 2: column 'patient'"):  # as the spreadsheet counts: header is row 1
        build_cohort(study_of(tmp_path), "own")


def test_rows_are_counted_as_a_spreadsheet_does_with_blank_rows_and_breaks_in_cells(tmp_path: Path) -> None:
    lines = ["image,patient,note,heart", '1.png,p1,"two\nlines",1', "", ",,,", "2.png,p2,,maybe", ",,,", ";;"]
    (tmp_path / "list.csv").write_text("\n".join(lines[:-1]) + "\n")
    with pytest.raises(CohortError, match=r"column 'heart': 1 cells are not explained: 'maybe' \(row 5\)"):
        build_cohort(study_of(tmp_path), "own")


def test_rows_of_separators_alone_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text(rows_of().to_csv(index=False) + ",,\n , ,\n" * 1000)
    assert len(built(study_of(tmp_path))) == 20


def test_an_open_quotation_mark_is_an_error_and_swallows_no_rows(tmp_path: Path) -> None:
    text = rows_of().to_csv(index=False).replace("3.png,", '"3.png,')
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(CohortError, match=r"row 5: .*Is a quotation mark not closed"):
        build_cohort(study_of(tmp_path), "own")


def test_lines_of_json_read_as_a_csv_does(tmp_path: Path) -> None:
    lines = [{"image": f"{n}.png", "patient": n + 1, "heart": [1.0, 0.0, None][n % 3]} for n in range(21)]
    (tmp_path / "list.json").write_text("\n".join(map(json.dumps, lines)))
    table = built(study_of(tmp_path, "list.json"))
    assert table.loc["0.png", "cardiomegaly"] == 1
    assert table.loc["1.png", "patient_id"] == "2"
    assert len(table) == 14  # a third says nothing of its only label


def test_a_cell_of_nulls_numbers_and_days_is_the_text_of_a_csv() -> None:
    values = [None, float("nan"), True, 7, 7.0, 0.1, 1e15, 40.25, datetime.date(2020, 1, 31), pd.NaT]
    assert [cell_text(value) for value in values] == [
        *("", "", "1", "7", "7", "0.1", "1.00000000000000E+15", "40.25", "2020-01-31", ""),
    ]


def test_parquet_columns_of_any_type_read_as_a_csv_does(tmp_path: Path) -> None:
    typed = rows_of(
        patient=pd.Series([*range(100, 119), None], dtype="float64"),
        heart=pd.Categorical(["1", "0"] * 10),
        age=pd.Series([40.5, 58] * 10, dtype="float32"),
    )
    typed.iloc[:19].to_parquet(tmp_path / "list.parquet")
    table = built(study_of(tmp_path, "list.parquet", 'age = "age"'))
    assert table["patient_id"].tolist()[:2] == ["100", "101"]
    assert table.loc[["0.png", "1.png"], "age_years"].tolist() == [40.5, 58]


# ---- workbooks ----


def test_a_workbook_s_numbers_days_and_shown_zeros_are_what_people_see(tmp_path: Path) -> None:
    rows: list[list[Any]] = [["image", "patient", "heart", "born", "taken"]]
    rows += [[f"{n}.png", n, n % 2, datetime.datetime(1950, 1, 31), "1.2.2020"] for n in range(1, 21)]
    book = write_book(tmp_path / "list.xlsx", {"Sheet": rows})
    for cell in book["Sheet"]["B"][1:]:
        cell.number_format = "0000"
    book.save(tmp_path / "list.xlsx")
    more = 'birth_date = "born"\nstudy_date = "taken"\ndate_format = "%d.%m.%Y"'
    table = built(study_of(tmp_path, "list.xlsx", more))
    assert table.loc["7.png", "patient_id"] == "0007"
    assert table.loc["7.png", "age_years"] == pytest.approx(70.0, abs=0.01)  # 1950-01-31 to 2020-02-01
    assert table.loc["7.png", "cardiomegaly"] == 1


def test_of_several_sheets_none_is_taken_until_one_is_named(tmp_path: Path) -> None:
    rows = [list(rows_of()), *rows_of().values.tolist()]
    write_book(tmp_path / "list.xlsx", {"2019": rows[:11], "2020": rows, "old": rows}, hidden=("old",))
    with pytest.raises(CohortError, match=r"2 sheets have cells: '2019', '2020'\. .*sheet = \"2019\".*Hidden.*'old'"):
        build_cohort(study_of(tmp_path, "list.xlsx"), "own")
    assert len(built(study_of(tmp_path, "list.xlsx", 'sheet = "2020"'))) == 20
    with pytest.raises(CohortError, match=r"no sheet '2021'; found '2019', '2020', 'old'"):
        build_cohort(study_of(tmp_path, "list.xlsx", 'sheet = "2021"'), "own")


def test_a_hidden_sheet_beside_the_list_is_passed_over(tmp_path: Path) -> None:
    rows = [list(rows_of()), *rows_of().values.tolist()]
    write_book(tmp_path / "list.xlsx", {"list": rows, "codes": [["a"], ["b"]]}, hidden=("codes",))
    assert len(built(study_of(tmp_path, "list.xlsx"))) == 20


def test_a_header_below_a_title_and_merged_names_of_groups_is_found(tmp_path: Path) -> None:
    rows: list[list[Any]] = [["Export of 2020"], [None, None, "Findings"], list(rows_of())]
    book = write_book(tmp_path / "list.xlsx", {"list": rows + rows_of(heart=["x", *["1"] * 19]).values.tolist()})
    book["list"].merge_cells("A1:C1")
    book.save(tmp_path / "list.xlsx")
    with pytest.raises(CohortError, match=r"not explained: 'x' \(row 4\)"):
        build_cohort(study_of(tmp_path, "list.xlsx"), "own")


@pytest.mark.parametrize("suffix", [".csv", ".xlsx"])
def test_below_a_title_the_column_that_is_not_there_is_named_and_not_the_first(suffix: str, tmp_path: Path) -> None:
    rows = [["Listado de radiografías"], ["image", "patient", "Sexo paciente", "heart"], ["0.png", "p0", "M", "1"]]
    if suffix == ".xlsx":
        write_book(tmp_path / "list.xlsx", {"list": rows})
    else:
        (tmp_path / "list.csv").write_text("\n".join(",".join([*row, *[""] * (4 - len(row))]) for row in rows))
    with pytest.raises(CohortError, match=r"no column 'sexo' \(sex\); found 'image', 'patient', 'Sexo paciente'"):
        build_cohort(study_of(tmp_path, f"list{suffix}", more='sex = "sexo"'), "own")


def test_a_workbook_of_a_title_alone_is_not_asked_for_its_separator(tmp_path: Path) -> None:
    write_book(tmp_path / "list.xlsx", {"list": [["Listado"], ["Archivo"]]})
    with pytest.raises(CohortError, match=r"no column 'image' \(image\); found 'Listado'\. Names are compared exactly"):
        build_cohort(study_of(tmp_path, "list.xlsx"), "own")


def test_a_formula_that_nobody_calculated_is_no_empty_cell(tmp_path: Path) -> None:
    rows = [list(rows_of()), *rows_of(heart=["=1+0", *["0"] * 19]).values.tolist()]
    write_book(tmp_path / "list.xlsx", {"list": rows})
    with pytest.raises(CohortError, match=r"sheet 'list' has formulas without results"):
        build_cohort(study_of(tmp_path, "list.xlsx"), "own")


def test_an_id_of_more_than_15_digits_is_refused_because_the_workbook_has_rounded_it(tmp_path: Path) -> None:
    # 12345678901234567 and …568 are one number to a spreadsheet, which keeps 15 digits
    ids = [12345678901234567, 12345678901234568, *range(1, 19)]
    write_book(tmp_path / "list.xlsx", {"list": [list(rows_of()), *rows_of(patient=ids).values.tolist()]})
    with pytest.raises(CohortError, match=r"the patient of 2 rows is '1\.23456789012346E\+16' .*a spreadsheet rounded"):
        build_cohort(study_of(tmp_path, "list.xlsx"), "own")


def test_ids_that_a_spreadsheet_took_for_days_are_refused(tmp_path: Path) -> None:
    ids = [datetime.datetime(2020, 2, 1), "01-02", *range(1, 19)]  # 1-2 typed into a cell is the first of February
    write_book(tmp_path / "list.xlsx", {"list": [list(rows_of()), *rows_of(patient=ids).values.tolist()]})
    with pytest.raises(CohortError, match=r"row 2: column 'patient' \(patient\) has a day, as a spreadsheet makes of"):
        build_cohort(study_of(tmp_path, "list.xlsx"), "own")


def test_an_id_that_lost_its_zeros_in_a_workbook_is_the_same_patient_as_with_them(tmp_path: Path) -> None:
    ids = [7, "007", " 007", "7.0", "00\u200b7", *range(11, 26)]
    write_book(tmp_path / "list.xlsx", {"list": [list(rows_of()), *rows_of(patient=ids).values.tolist()]})
    table = built(study_of(tmp_path, "list.xlsx"))
    assert table["patient_id"].nunique() == 16
    assert table.loc[[f"{n}.png" for n in range(5)], "split"].nunique() == 1


def test_a_far_away_cell_makes_no_table_of_its_size(tmp_path: Path) -> None:
    book = write_book(tmp_path / "list.xlsx", {"list": [list(rows_of()), *rows_of().values.tolist()]})
    book["list"].cell(row=200_000, column=5, value=" ")
    book.save(tmp_path / "list.xlsx")
    assert len(built(study_of(tmp_path, "list.xlsx"))) == 20


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("list.csv", b"PK\3\4", r"a workbook or another archive"),
        ("list.csv", b"\xd0\xcf\x11\xe0\xff", r"a workbook of an old spreadsheet program"),
        ("list.ods", b"PK\3\4", r"a workbook or another archive. Save it as .xlsx or as CSV"),
        ("list.xlsx", b"image,patient\n", r"cannot be read as a workbook"),
        ("list.xlsx", b"\xd0\xcf\x11\xe0\xff", r"protected by a password, or of an old spreadsheet program"),
        ("list.csv.gz", DAMAGED_GZIP, r"cannot be read as CSV \(Error -3 while decompressing"),
        ("list.csv", b"", r"empty \(0 bytes\)"),
        ("list.csv", gzip.compress(b"image\n", mtime=0), r"compressed by gzip, which its name does not say"),
        ("list.json", b"[1]", r"line 1: not a JSON object"),
    ],
)
def test_a_file_that_is_something_else_is_named(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CohortError, match=message):
        build_cohort(study_of(tmp_path, name), "own")


def test_a_column_name_that_is_there_twice_is_refused_only_where_it_is_used(tmp_path: Path) -> None:
    text = rows_of(note="x", other="y").to_csv(index=False)
    (tmp_path / "list.csv").write_text(text.replace("note,other", "note,note"))
    assert len(built(study_of(tmp_path))) == 20
    (tmp_path / "list.csv").write_text(text.replace("note,other", "note,heart"))
    with pytest.raises(CohortError, match=r"2 columns are named 'heart', expected one"):
        ListFile(tmp_path / "list.csv").read(["heart"])


# ---- cells ----


def test_everything_that_is_not_explained_is_told_at_once_with_cells_and_rows(tmp_path: Path) -> None:
    rows = rows_of(sex=["w", "m"] * 10, set=["train"] * 19 + ["later"], healthy=["nein"] * 20, date="2020-01-01")
    rows.loc[4, "date"] = "soon"
    rows["born"] = ["1950-01-01"] * 19 + ["Anna"]
    rows.to_csv(tmp_path / "list.csv", index=False)
    more = 'sex = "sex"\nsplit = "set"\nbirth_date = "born"\nstudy_date = "date"'
    study = study_of(tmp_path, more=more, labels=f'{HEART}\nhealthy = {{ column = "healthy" }}')
    with pytest.raises(CohortError) as caught:
        build_cohort(study, "own")
    lines = str(caught.value).splitlines()
    assert len(lines) == 5
    told = str(caught.value)
    assert "'healthy': 20 cells are not explained: 'nein' (row 2)" in told
    assert "'sex': 10 cells are not explained: 'w' (row 2)" in told
    assert "'set': 1 cells are not explained: 'later' (row 21)" in told
    assert "'date': 1 cells are no date of the form ISO 8601, e.g. 2020-01-31, the first is 'soon' (row 6)" in told
    assert "of the form 'aaaa' (row 21)" in told
    assert "Anna" not in told


def test_one_mapping_of_words_serves_all_labels(tmp_path: Path) -> None:
    rows = rows_of(heart=["ja", "nein", "fraglich", "1"] * 5, healthy=["nein", "JA", "", "0"] * 5)
    rows.to_csv(tmp_path / "list.csv", index=False)
    more = 'words = { yes = ["ja"], no = ["nein"], unknown = ["fraglich"] }'
    table = built(study_of(tmp_path, more=more, labels=f'{HEART}\nhealthy = {{ column = "healthy" }}'))
    assert table.loc[["0.png", "1.png", "3.png"], "cardiomegaly"].tolist() == [1, 0, 1]
    assert table.loc[["0.png", "1.png", "3.png"], "healthy"].tolist() == [0, 1, 0]
    assert "2.png" not in table.index  # it says nothing of any label


def test_a_word_that_means_yes_here_and_no_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"labels.cardiomegaly, with words: '0' is listed as positive and as negative"):
        study_of(tmp_path, more='words = { yes = ["0"] }')


@pytest.mark.parametrize(
    ("form", "born", "taken"),
    [
        ("", "1950-03-01", "2020-03-01"),
        ("", "19500301", "2020-03-01T23:30:00+02:00"),
        ("%d.%m.%Y", "01.03.1950", "1.3.2020"),
        ("%m/%d/%Y", "03/01/1950", "3/1/2020"),
        ("%d.%m.%y", "01.03.50", "01.03.20"),
        ("excel", "18323", "43891"),  # what spreadsheets show for these two days as numbers
    ],
)
def test_dates_of_any_one_form_give_the_age(form: str, born: str, taken: str, tmp_path: Path) -> None:
    rows_of(born=[born, "unbekannt"] * 10, taken=taken).to_csv(tmp_path / "list.csv", index=False)
    more = 'birth_date = "born"\nstudy_date = "taken"\nno_date = ["Unbekannt"]'
    table = built(study_of(tmp_path, more=more + (f'\ndate_format = "{form}"' if form else "")))
    assert table.loc["0.png", "age_years"] == pytest.approx(70.0, abs=0.01)
    assert pd.isna(table.loc["1.png", "age_years"])


def test_a_number_of_days_is_recognised_in_the_message(tmp_path: Path) -> None:
    rows_of(born="18323", taken="43891").to_csv(tmp_path / "list.csv", index=False)
    with pytest.raises(CohortError, match=r'A spreadsheet counts days so: set date_format = "excel"'):
        build_cohort(study_of(tmp_path, more='birth_date = "born"\nstudy_date = "taken"'), "own")


def test_a_date_of_birth_taken_for_an_age_or_an_id_for_a_sex_is_in_no_message(tmp_path: Path) -> None:
    rows_of(born="12.03.1951", id=[f"70{n:03}" for n in range(20)]).to_csv(tmp_path / "list.csv", index=False)
    with pytest.raises(CohortError, match=r"the first is of the form '99\.99\.9999' \(row 2\)") as caught:
        build_cohort(study_of(tmp_path, more='age = "born"\nsex = "id"'), "own")
    assert "of the form '99999' (row 2)" in str(caught.value)
    assert "1951" not in str(caught.value)
    assert "70000" not in str(caught.value)


def test_a_formula_of_an_attacker_stays_a_text(tmp_path: Path) -> None:
    rows_of(heart=['=HYPERLINK("http://x")', *["1"] * 19]).to_csv(tmp_path / "list.csv", index=False)
    with pytest.raises(CohortError, match=r"not explained: '=HYPERLINK"):
        build_cohort(study_of(tmp_path), "own")


# ---- several rows an image ----

BOXES = "image,patient,reader,x,heart\na.png,1,R1,5,1\na.png,1,R1,9,1\na.png,1,R2,,0\na.png,1,R3,,0\n"


def boxes(folder: Path, more: str, text: str = BOXES) -> Study:
    others = "".join(f"{n}.png,q{n},R{r},,{n % 2}\n" for n in range(20) for r in (1, 2, 3))
    (folder / "list.csv").write_text(text + others)
    return study_of(folder, more=more)


def test_several_rows_an_image_without_a_rule_are_an_error_that_shows_both(tmp_path: Path) -> None:
    with pytest.raises(CohortError, match=r"43 rows repeat an image\. The first two that do \(row 2: .*'1'; row 3: "):
        build_cohort(boxes(tmp_path, ""), "own")


@pytest.mark.parametrize(
    ("more", "label"),
    [
        ('rows = "any"', 1),
        ('rows = "all"', 0),
        ('rows = "majority"', None),  # two boxes of one reader against two readers: a tie of rows
        ('rows = "majority"\nreader = "reader"', 0),  # one reader of three
        ('rows = "any"\nreader = "reader"', 1),
        ('rows = "all"\nreader = "reader"', 0),
    ],
)
def test_the_rule_says_what_several_rows_mean(more: str, label: int | None, tmp_path: Path) -> None:
    table = built(boxes(tmp_path, more))
    assert len(table) == (21 if label is not None else 20)  # an image without a known label is left out
    if label is not None:
        assert table.loc["a.png", "cardiomegaly"] == label
    assert table.loc["3.png", "cardiomegaly"] == 1


@pytest.mark.parametrize(
    ("rule", "cells", "label"),
    [
        *(("any", "10?", 1), ("any", "0?", None), ("any", "00", 0)),
        *(("all", "11", 1), ("all", "1?", None), ("all", "10?", 0)),
        *(("majority", "110", 1), ("majority", "100?", 0), ("majority", "10", None), ("majority", "1?", 1)),
    ],
)
def test_rows_that_say_nothing_are_counted_as_three_valued_logic_does(
    rule: str, cells: str, label: int | None, tmp_path: Path
) -> None:
    rows = "".join(f"a.png,1,R{n},,{cell.replace('?', '')}\n" for n, cell in enumerate(cells))
    table = built(boxes(tmp_path, f'rows = "{rule}"', f"image,patient,reader,x,heart\n{rows}"))
    assert ("a.png" in table.index) == (label is not None)
    assert label is None or table.loc["a.png", "cardiomegaly"] == label


def test_findings_in_rows_of_their_own_become_labels_of_their_image(tmp_path: Path) -> None:
    found = {"a": ["Effusion", "Pneumonia"], "b": ["Normal"], "c": ["Scoliosis"]}
    lines = [f"{n}{name}.png,{n}{name},{each}" for n in range(8) for name, listed in found.items() for each in listed]
    (tmp_path / "list.csv").write_text("image,patient,finding\n" + "\n".join(lines))
    labels = 'healthy = { findings = ["normal"] }\npneumonia = { findings = ["pneumonia"] }'
    table = built(study_of(tmp_path, more='findings = "finding"\nrows = "any"', labels=labels))
    assert table.loc[["0a.png", "0b.png", "0c.png"], "pneumonia"].tolist() == [1, 0, 0]
    assert table.loc[["0a.png", "0b.png", "0c.png"], "healthy"].tolist() == [0, 1, 0]


def test_exact_copies_of_rows_are_dropped_and_told_and_contradictions_are_named(tmp_path: Path) -> None:
    rows = rows_of(note="x")
    pd.concat([rows, rows.iloc[:3]]).to_csv(tmp_path / "list.csv", index=False)
    study = study_of(tmp_path)
    assert len(built(study)) == 20
    assert notes(study)["exact copies of a row, dropped"] == 3
    pd.concat([rows, rows.iloc[:1].assign(heart="0")]).to_csv(tmp_path / "list.csv", index=False)
    with pytest.raises(CohortError, match=r"row 2: label cardiomegaly '1'; row 22: label cardiomegaly '0'\) differ in"):
        build_cohort(study, "own")


def test_a_reader_has_one_vote_however_the_name_is_written_and_nobody_s_vote_is_refused(tmp_path: Path) -> None:
    head, more = "image,patient,reader,x,heart\n", 'rows = "majority"\nreader = "reader"'
    rows = [("Dr A", 1), ("dr a", 1), ("DR A", 1), ("B", 0), ("C", 0)]  # one reader of three says yes
    text = "".join(f"a.png,1,{reader},{x},{heart}\n" for x, (reader, heart) in enumerate(rows))
    assert built(boxes(tmp_path, more, head + text)).loc["a.png", "cardiomegaly"] == 0
    with pytest.raises(CohortError, match=r"row 3: column 'reader' \(reader: whose vote is it\?\) is empty"):
        build_cohort(boxes(tmp_path, more, head + text.replace("dr a", "")), "own")


def test_a_file_whose_name_is_in_both_lists_with_a_folder_gets_no_other_folder_s_label(tmp_path: Path) -> None:
    rows = rows_of(image=["p1/view.png", "p2/view.png", *(f"{n}.png" for n in range(18))], study="s")
    labels = pd.DataFrame({"key": ["p1/view", "p3/view", *map(str, range(18))], "heart": ["0", "1"] * 10})
    table = built(joined(tmp_path, "image", labels, rows=rows))
    assert table.loc["p1/view.png", "cardiomegaly"] == 0
    assert "p2/view.png" not in table.index  # p3's label is another image's


def test_the_majority_loses_no_vote_that_is_written_like_another(tmp_path: Path) -> None:
    # three readers without names, two of whom say yes: without the second yes it would be a tie
    lines = [f"{n}.png,p{n},{heart}" for n in range(20) for heart in (1, 1, 0)]
    (tmp_path / "list.csv").write_text("image,patient,heart\n" + "\n".join(lines))
    with pytest.raises(CohortError, match=r"20 rows are the same in every cell .*first: rows 2 and 3\), and the maj"):
        build_cohort(study_of(tmp_path, more='rows = "majority"'), "own")
    (tmp_path / "list.csv").write_text(
        "image,patient,heart,by\n" + "\n".join(f"{line},{n % 3}" for n, line in enumerate(lines))
    )
    for more in ("", '\nreader = "by"'):
        assert built(study_of(tmp_path, more=f'rows = "majority"{more}'))["cardiomegaly"].tolist() == [1] * 20


@pytest.mark.parametrize("column", ["patient", "sex", "image"])
def test_rows_of_an_image_that_say_different_things_of_a_person_are_an_error_under_any_rule(
    column: str, tmp_path: Path
) -> None:
    rows = rows_of(sex="F")
    again = rows.iloc[:1].assign(**{column: "M" if column == "sex" else "zz9"})
    pd.concat([rows.assign(sop=range(20)), again.assign(sop=0)]).to_csv(tmp_path / "list.csv", index=False)
    with pytest.raises(CohortError, match=rf"column '{column}' .*first are rows 2 and 22") as caught:
        build_cohort(study_of(tmp_path, more='sex = "sex"\nimage_id = "sop"\nrows = "any"'), "own")
    assert "zz9" not in str(caught.value)


def test_parquet_rows_that_are_copies_are_known_by_all_their_columns(tmp_path: Path) -> None:
    rows = rows_of(x=1.5)
    pd.concat([rows, rows.iloc[:2], rows.iloc[:1].assign(x=2.5)]).to_parquet(tmp_path / "list.parquet")
    with pytest.raises(CohortError, match=r"1 rows repeat an image.* differ in columns that the study file does not"):
        build_cohort(study_of(tmp_path, "list.parquet"), "own")
    pd.concat([rows, rows.iloc[:2]]).to_parquet(tmp_path / "list.parquet")
    assert len(built(study_of(tmp_path, "list.parquet"))) == 20


# ---- what spreadsheets, databases and other systems make of lists ----


def test_a_view_is_what_the_study_file_says_also_where_its_cell_is_a_word_of_dpdt(tmp_path: Path) -> None:
    """`AP = []` leaves bedside images out; `frontal` of a list may mean something else than dpdt's."""
    rows_of(view=["PA", "AP", "frontal", "unknown"] * 5).to_csv(tmp_path / "list.csv", index=False)
    study = study_of(tmp_path, more='view = "view"\nviews = { AP = [], frontal = ["v"], unknown = ["?"] }')
    assert set(built(study)["view"]) == {"PA"}
    gone = pd.read_csv(study.paths.cohort_exclusions("own"))["reason"].value_counts().to_dict()
    assert gone == {"view AP": 5, "view frontal": 5, "view unknown": 5}


@pytest.mark.parametrize(
    ("more", "labels"),
    [
        ('findings = "word"', f'cardiomegaly = {{ findings = ["{TWO_SPELLINGS[0]}"] }}'),
        ("", f'cardiomegaly = {{ column = "word", positive = ["{TWO_SPELLINGS[0]}"], negative = ["-"] }}'),
        (f'view = "word"\nviews = {{ AP = ["{TWO_SPELLINGS[1]}"] }}', HEART),
    ],
)
def test_two_ways_to_write_an_umlaut_are_one_word(more: str, labels: str, tmp_path: Path) -> None:
    """Unicode Standard Annex 15: both have the same meaning. Half of the findings would be negative otherwise."""
    words = [*TWO_SPELLINGS, TWO_SPELLINGS[0], "-"]
    rows_of(word=words * 5).to_csv(tmp_path / "list.csv", index=False)
    table = built(study_of(tmp_path, more=more, labels=labels))
    of_word = [f"{n}.png" for n in range(20) if n % 4 < 3]
    if "view" in more:
        assert sorted(table.index) == sorted(of_word)
    else:
        assert sorted(table.index[table["cardiomegaly"] == 1]) == sorted(of_word)


def test_a_column_whose_umlaut_is_written_in_the_other_way_is_told_so(tmp_path: Path) -> None:
    rows_of().rename(columns={"heart": "Gro\u0308\u00dfe"}).to_csv(tmp_path / "list.csv", index=False)
    with pytest.raises(CohortError, match=r"copied out of the list: its accents are written in another way there"):
        build_cohort(study_of(tmp_path, labels='cardiomegaly = { column = "Gr\u00f6\u00dfe" }'), "own")


def test_a_compressed_list_may_be_named_in_capitals(tmp_path: Path) -> None:
    (tmp_path / "LIST.CSV.GZ").write_bytes(gzip.compress(rows_of().to_csv(index=False).encode()))
    assert len(built(study_of(tmp_path, "LIST.CSV.GZ"))) == 20


def test_long_whole_numbers_of_a_parquet_file_stay_whole_where_one_is_missing(tmp_path: Path) -> None:
    """As a database exports them; a double has 53 bits, so pandas' floats would make 2^53 and 2^53 + 1 one."""
    exams = [2**53 + n for n in range(19)]
    plain = {name: pa.array(column.tolist()) for name, column in rows_of().drop(columns="heart").items()}
    pq.write_table(pa.table({**plain, "exam": pa.array([*exams, None], pa.int64())}), tmp_path / "list.parquet")
    labels = {"exam": pa.array(exams, pa.int64()), "heart": pa.array(["1", "0"] * 9 + ["1"])}
    pq.write_table(pa.table(labels), tmp_path / "labels.parquet")
    more = 'study = "exam"\nlabels_from = { file = "labels.parquet", by = "study", column = "exam" }'
    table = built(study_of(tmp_path, "list.parquet", more))
    assert [table.loc[f"{n}.png", "cardiomegaly"] for n in range(19)] == [1, 0] * 9 + [1]
    assert table.loc["1.png", "study_id"] == "9007199254740993"


def test_bytes_are_no_numbers(tmp_path: Path) -> None:
    """Python reads the bytes 0012 as the number 12."""
    ids = pa.array([f"{n:04d}".encode() for n in range(20)], pa.binary())
    plain = {name: pa.array(column.tolist()) for name, column in rows_of().items()}
    pq.write_table(pa.table({**plain, "patient": ids}), tmp_path / "list.parquet")
    with pytest.raises(CohortError, match=r"column 'patient' holds lists, tables or bytes, expected text"):
        build_cohort(study_of(tmp_path, "list.parquet"), "own")


@pytest.mark.parametrize(
    "cell", ["#NV", "#WERT!", "#VALEUR!", "#\u00a1REF!", "(Leer)", "k.A.", "Inconnu", "Ano\u0301nimo"]
)
def test_errors_of_spreadsheets_in_their_languages_are_no_patients(cell: str, tmp_path: Path) -> None:
    rows_of(patient=[cell] * 3 + PATIENTS[3:]).to_csv(tmp_path / "list.csv", index=False)
    with pytest.raises(CohortError, match=rf"the patient of 3 rows is '{re.escape(cell)}' .*, which is no id"):
        build_cohort(study_of(tmp_path), "own")


def test_numbers_that_all_lost_their_digits_after_the_fifteenth_are_no_patients(tmp_path: Path) -> None:
    """Excel keeps 15 digits of a number, as its specifications and limits say."""
    whole = [f"1234567890123{n:02d}987" for n in range(20)]
    rows_of(patient=whole).to_csv(tmp_path / "list.csv", index=False)
    assert built(study_of(tmp_path))["patient_id"].nunique() == 20
    rows_of(patient=[f"{each[:15]}000" for each in whole]).to_csv(tmp_path / "list.csv", index=False)
    with pytest.raises(CohortError, match=r"the patient of 20 rows is .*, a number that a spreadsheet rounded"):
        build_cohort(study_of(tmp_path), "own")


def test_days_of_summer_and_winter_time_are_those_of_the_place(tmp_path: Path) -> None:
    """10,957 days from 1990-01-01 to 2020-01-01, 30 years less one winter and one summer apart or not."""
    born = ["1990-01-01T23:30:00+0100", "1990-07-01T00:30:00+0200"] * 10
    rows_of(born=born, taken="2020-01-01T08:00:00+0100").to_csv(tmp_path / "list.csv", index=False)
    more = 'birth_date = "born"\nstudy_date = "taken"\ndate_format = "%Y-%m-%dT%H:%M:%S%z"'
    ages = built(study_of(tmp_path, more=more)).loc[["0.png", "1.png"], "age_years"]
    days = [(datetime.date(2020, 1, 1) - datetime.date(1990, month, 1)).days for month in (1, 7)]
    assert ages.tolist() == pytest.approx([each / 365.25 for each in days], abs=1 / 365)


# ---- a second list for the labels ----


def joined(folder: Path, by: str, labels: pd.DataFrame, more: str = "", rows: pd.DataFrame | None = None) -> Study:
    (rows_of(study=[f"s{n // 2}" for n in range(20)]) if rows is None else rows).drop(columns="heart").to_csv(
        folder / "list.csv", index=False
    )
    labels.to_csv(folder / "labels.csv", index=False)
    table = f'labels_from = {{ file = "labels.csv", by = "{by}", column = "key" }}\nstudy = "study"\n{more}'
    return study_of(folder, more=table)


@pytest.mark.parametrize(
    ("by", "keys"),
    [
        ("image", [f"{n}" for n in range(20)]),  # without a suffix
        ("image", [f"folder\\{n}.dcm" for n in range(20)]),  # by the name alone
        ("study", [f" S{n} " for n in range(10)]),
        ("patient", [f"P{n}" for n in range(20)]),
    ],
)
def test_labels_of_a_second_list_are_joined(by: str, keys: list[str], tmp_path: Path) -> None:
    labels = pd.DataFrame({"key": [*keys, "nobody"], "heart": ["1", "0"] * (len(keys) // 2) + ["1"]})
    study = joined(tmp_path, by, labels)
    table = built(study)
    second = "2.png" if by == "study" else "1.png"
    assert table.loc[["0.png", second], "cardiomegaly"].tolist() == [1, 0]
    assert notes(study)[f"rows of labels that join no {by}"] == 1
    assert [entry["name"] for entry in read_record(study, "own")["inputs"]] == ["table", "labels"]


def test_images_without_a_row_of_labels_are_told_and_left_out(tmp_path: Path) -> None:
    study = joined(tmp_path, "patient", pd.DataFrame({"key": PATIENTS[:15], "heart": "1"}))
    assert len(built(study)) == 15
    assert notes(study)["images without a row of labels"] == 5


def test_a_second_list_that_joins_nothing_or_one_row_to_several_images_is_an_error(tmp_path: Path) -> None:
    strangers = pd.DataFrame({"key": ["a", "b"], "heart": ["1", "0"]})
    with pytest.raises(CohortError, match=r"column 'key': none of 2 keys is one of the 20 of the list's patient"):
        build_cohort(joined(tmp_path, "patient", strangers), "own")
    alike = rows_of(image=[f"{n // 2}/view.png" for n in range(20)], study="s").drop_duplicates("image")
    named = pd.DataFrame({"key": ["view"], "heart": ["1"]})
    with pytest.raises(CohortError, match=r"none of 1 keys"):  # a name of many images is given to none
        build_cohort(joined(tmp_path, "image", named, rows=alike), "own")


def test_several_rows_of_labels_a_key_need_the_rule_too(tmp_path: Path) -> None:
    labels = pd.DataFrame({"key": [*PATIENTS, "P0"], "heart": ["0"] * 20 + ["1"]})
    with pytest.raises(CohortError, match=r"labels\.csv: 1 rows repeat a key"):
        build_cohort(joined(tmp_path, "patient", labels), "own")
    assert built(joined(tmp_path, "patient", labels, 'rows = "any"')).loc["0.png", "cardiomegaly"] == 1


@pytest.mark.parametrize("where", ["list.csv", "labels.csv"])
def test_examinations_that_differ_in_zeros_alone_are_not_given_each_other_s_labels(where: str, tmp_path: Path) -> None:
    studies = ["7", "07", *(f"s{n}" for n in range(18))]
    alone = ["7", "x", *studies[2:]]
    rows = rows_of(study=studies if where == "list.csv" else alone)
    labels = pd.DataFrame({"key": studies if where == "labels.csv" else alone, "heart": ["1", "0"] * 10})
    with pytest.raises(CohortError, match=rf"{where}: the keys \(study\) of rows 2 and 3 differ in blanks, capitals"):
        build_cohort(joined(tmp_path, "study", labels, 'rows = "any"', rows=rows), "own")


@pytest.mark.parametrize("key", ["1,23457E+12", "NULL", "--"])
def test_nobody_gets_labels_by_a_rounded_number_or_a_placeholder(key: str, tmp_path: Path) -> None:
    """Ten examinations without a number, or with a rounded one, of as many patients; one row of labels."""
    rows = rows_of(study=[key if n % 2 else f"s{n}" for n in range(20)])
    labels = pd.DataFrame({"key": [key, *(f"s{n}" for n in range(0, 20, 2))], "heart": ["1"] + ["0"] * 10})
    with pytest.raises(CohortError, match=r"column 'key': 10 images would get their labels by .*\(first: row 3 of the"):
        build_cohort(joined(tmp_path, "study", labels, rows=rows), "own")
    alone = labels[labels["key"] != key]  # what joins nothing harms nobody
    assert len(built(joined(tmp_path, "study", alone, rows=rows))) == 10


def test_a_changed_list_of_labels_is_noticed(tmp_path: Path) -> None:
    labels = pd.DataFrame({"key": PATIENTS, "heart": ["1", "0"] * 10})
    study = joined(tmp_path, "patient", labels)
    assert built(study)["cardiomegaly"].sum() == 10
    labels.assign(heart="1").to_csv(tmp_path / "labels.csv", index=False)
    assert built(study)["cardiomegaly"].sum() == 20


def test_keys_that_came_later_leave_the_fingerprints_of_lists_without_them_as_they_were(tmp_path: Path) -> None:
    """Taken from the commit before these keys: another fingerprint would give each of a study's runs another name."""
    assert study_of(tmp_path).cohort_fingerprint("own") == (
        "725f053008cf61ecbab70610072e83ff017f80e7f0d743bf38cd389fff956471"
    )
    assert study_of(tmp_path, more='rows = "any"').cohort_fingerprint("own") != study_of(tmp_path).cohort_fingerprint(
        "own"
    )
