"""`dpdt init --list`: guesses about a list, each a line to confirm; then the study loads and its cohort is right."""

import gzip
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dpdt.cli import main
from dpdt.cohort.build import build_cohort
from dpdt.cohort.lists.mapping import mapping_text
from dpdt.cohort.table import read_cohort
from dpdt.errors import CohortError, StudyError
from dpdt.study import Study, load_study
from dpdt.study.source import open_guesses


def images(folder: Path, names: list[str]) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return folder


def write(path: Path, rows: pd.DataFrame, *, sep: str = ",", encoding: str = "utf-8") -> Path:
    path.write_bytes(rows.to_csv(index=False, sep=sep).encode(encoding))
    return path


def confirmed(text: str, *, without: tuple[str, ...] = ()) -> str:
    """What a person does who finds every guess right: the first # of each line to confirm is removed."""
    lines = text.split("\n")
    for number in open_guesses(text):
        line = lines[number - 1]
        lines[number - 1] = "" if any(part in line for part in without) else line.removeprefix("#")
    return "\n".join(lines)


def study_of(folder: Path, text: str) -> Study:
    (folder / "study.toml").write_text(text, encoding="utf-8")
    return load_study(folder)


N = 20
LISTS = {
    "German": (
        {
            "Bilddatei": [f"bilder\\röntgen_{n:03d}.png" for n in range(N)],
            "Pat.-ID": [700_000 + n // 2 for n in range(N)],
            "Geschlecht": ["männlich", "weiblich"] * 10,
            "Alter": [f"{40 + n},5" for n in range(N)],
            "Aufnahme": ["p.a.", "a.p.", "seitlich", "p.a."] * 5,
            "Herzvergrößerung": ["ja", "nein", "fraglich", "nein"] * 5,
            "Erguss": ["nein", "ja"] * 10,
        },
        ";",
        "cp1252",
        {"sex": ["male", "female"], "age_years": [40.5, 41.5], "view": ["PA", "AP"], "cardiomegaly": [1, 0]},
    ),
    "French": (
        {
            "Nom du fichier": [f"bilder/röntgen_{n:03d}.png" for n in range(N)],
            "ID Patient": [f"F{n // 2}" for n in range(N)],
            "Sexe": ["H", "F"] * 10,
            "Date de naissance": ["31/01/1950"] * N,
            "Date de l'examen": ["31/01/2020", "inconnu"] * 10,
            "Cardiomégalie": ["oui", "non"] * 10,
        },
        "\t",
        "utf-16-le",
        {"sex": ["male", "female"], "age_years": [70.0, np.nan], "view": ["frontal"] * 2, "cardiomegaly": [1, 0]},
    ),
    "Spanish": (
        {
            "Archivo": [f"röntgen_{n:03d}" for n in range(N)],
            "Paciente": [f"E{n // 2}" for n in range(N)],
            "Sexo": ["H", "M"] * 10,
            "Edad": ["40", "41"] * 10,
            "Cardiomegalia": ["sí", "no"] * 10,
        },
        ",",
        "utf-8",
        {"sex": ["male", "female"], "age_years": [40, 41], "view": ["frontal"] * 2, "cardiomegaly": [1, 0]},
    ),
}


@pytest.mark.parametrize("language", LISTS)
def test_a_list_in_any_of_the_languages_is_described_and_reads_right_once_confirmed(
    language: str, tmp_path: Path
) -> None:
    columns, sep, encoding, wanted = LISTS[language]
    folder = images(tmp_path / "klinik", [f"bilder/röntgen_{n:03d}.png" for n in range(N)])
    write(folder / "liste.csv", pd.DataFrame(columns), sep=sep, encoding=encoding)
    text = mapping_text(folder / "liste.csv", folder / "bilder")
    with pytest.raises(StudyError, match=r"\d+ lines of `dpdt init --list` are still to confirm: line \d+: "):
        study_of(tmp_path, text)
    study = study_of(tmp_path, confirmed(text, without=("not found",)))
    build_cohort(study, "own")
    table = read_cohort(study, "own")
    first = table[table["image_id"].str.contains("_000|_001")]
    for name, values in wanted.items():
        if name == "age_years":
            np.testing.assert_allclose(first[name].to_numpy(), values, atol=0.01)
        else:
            assert first[name].tolist() == values, name
    assert first["path"].tolist() == ["bilder/röntgen_000.png", "bilder/röntgen_001.png"]


def test_no_cell_of_a_patient_a_date_or_an_image_is_in_the_study_file(tmp_path: Path) -> None:
    columns, sep, encoding, _ = LISTS["French"]
    folder = images(tmp_path, [f"bilder/röntgen_{n:03d}.png" for n in range(N)])
    rows = pd.DataFrame(columns).assign(Nom=[f"Dupont{n}" for n in range(N)], Remarque="tel. 0123")
    write(folder / "liste.csv", rows, sep=sep, encoding=encoding)
    text = mapping_text(folder / "liste.csv", folder / "bilder")
    for cell in ("F0", "F9", "1950", "2020", "röntgen_000", "Dupont", "0123"):
        assert cell not in text, cell
    assert '"99/99/9999"' in text
    assert '# Not used: "Nom", "Remarque".' in text


def test_a_day_and_month_that_may_be_either_are_asked_for_and_not_chosen(tmp_path: Path) -> None:
    rows = pd.DataFrame({"image": [f"{n}.png" for n in range(9)], "patient": range(9), "birth date": "01/02/1950"})
    write(tmp_path / "list.csv", rows.assign(**{"study date": "03/04/2020", "pneumonia": 1}))
    text = mapping_text(tmp_path / "list.csv", None)
    asked = re.findall(r'^#date_format = (".*?") .*keep the line', text, flags=re.MULTILINE)
    assert asked == ['"%d/%m/%Y"', '"%m/%d/%Y"']
    with pytest.raises(StudyError, match=r"the key date_format|a second time"):
        study_of(tmp_path, confirmed(text))
    both = confirmed(text, without=("%m/%d", "not found"))
    assert study_of(tmp_path, both).domains["own"].table.date_format == "%d/%m/%Y"  # type: ignore[union-attr]
    write(tmp_path / "list.csv", rows.assign(**{"study date": "13/04/2020", "pneumonia": 1}))
    assert '#date_format = "%d/%m/%Y"  #? likely' in mapping_text(tmp_path / "list.csv", None)


def test_dates_of_two_forms_are_asked_for_by_their_forms_alone(tmp_path: Path) -> None:
    rows = pd.DataFrame({"image": [f"{n}.png" for n in range(8)], "patient": range(8), "pneumonia": 1})
    rows = rows.assign(born=["31.01.1950", "1950-13"] * 4, taken="2020-01-31")
    text = mapping_text(write(tmp_path / "list.csv", rows), None)
    assert '#date_format = "…"  #? no known form fits every date' in text
    assert '"9999-99"' in text
    assert "1950" not in text


def test_several_rows_an_image_ask_for_the_rule(tmp_path: Path) -> None:
    rows = pd.DataFrame({"patientId": [f"{n // 2:08x}-aaaa" for n in range(8)], "x": range(8), "pneumonia": 1})
    folder = images(tmp_path, [f"png/{n:08x}-aaaa.dcm" for n in range(4)])
    text = mapping_text(write(folder / "list.csv", rows), folder / "png")
    assert text.count("#rows = ") == 3
    assert '#patient = "patientId"  #? perhaps: its name, but it is the image\'s column' in text


def test_findings_in_one_column_are_found_with_their_separator(tmp_path: Path) -> None:
    rows = pd.DataFrame({"Image Index": [f"{n}.png" for n in range(9)], "Patient ID": range(9)})
    rows["Finding Labels"] = ["Cardiomegaly|Effusion", "No Finding", ""] * 3
    text = mapping_text(write(tmp_path / "list.csv", rows), None)
    assert '#findings_separator = "|"' in text
    assert '#healthy = { findings = ["No Finding"] }' in text
    assert '#pleural_effusion = { findings = ["Effusion"] }' in text
    assert text.count("#no_findings = ") == 3


@pytest.mark.parametrize("cells", [("posteroanterior", "anteroposterior", "lateral"), ("PA", "AP", "Lateral")])
def test_a_view_is_found_by_its_cells_whatever_its_name(cells: tuple[str, ...], tmp_path: Path) -> None:
    rows = pd.DataFrame({"image": [f"{n}.png" for n in range(9)], "patient": range(9), "pneumonia": 1})
    text = mapping_text(write(tmp_path / "list.csv", rows.assign(**{"Posición": list(cells) * 3})), None)
    assert '#view = "Posición"  #? likely: most of its cells are PA or AP' in text
    assert f'# In none of these, so left out: "{cells[2]}"' in text


def test_the_headers_and_ages_of_a_spanish_list_are_found(tmp_path: Path) -> None:
    rows = pd.DataFrame({"Fichero": [f"{n}.png" for n in range(9)], "Nº Historia": range(9), "Neumonía": 1})
    dates = rows.assign(**{"F. nacimiento": "31/01/1950", "Fecha exploración": "31/01/2022"})
    text = mapping_text(write(tmp_path / "list.csv", dates), None)
    for key, name in (("patient", "Nº Historia"), ("birth_date", "F. nacimiento"), ("study_date", "Fecha exploración")):
        assert f'#{key} = "{name}"  #? likely: its name' in text
    text = mapping_text(write(tmp_path / "list.csv", rows.assign(Edad="45 años")), None)
    assert '#age = "Edad"  #? likely: its name, and 100% of its cells are ages' in text


def test_a_list_without_views_asks_whether_every_image_is_frontal(tmp_path: Path) -> None:
    rows = pd.DataFrame({"image": [f"{n}.png" for n in range(9)], "patient": range(9), "pneumonia": 1, "x": "PA"})
    text = mapping_text(write(tmp_path / "list.csv", rows), None)
    assert '#view = "…"  #? not found; without it every image counts as frontal' in text
    assert "view" in open_guesses(text).values()


def test_a_cell_that_no_word_explains_is_asked_for(tmp_path: Path) -> None:
    rows = pd.DataFrame({"image": [f"{n}.png" for n in range(9)], "patient": range(9), "sex": ["F", "M", "zz"] * 3})
    text = mapping_text(write(tmp_path / "list.csv", rows.assign(pneumonia=["yes", "no", "jein"] * 3)), None)
    assert '# Not understood, write each into one of female, male, unknown: "zz"  #?' in text
    assert '# Not understood, write each into yes, no or unknown: "jein"  #?' in text
    assert "Not understood, write each into yes, no or unknown" in open_guesses(text).values().__str__()


def test_labels_that_are_not_the_papers_are_found_by_their_words_and_grades(tmp_path: Path) -> None:
    rows = pd.DataFrame({"Bild": [f"{n}.png" for n in range(20)], "Patient": range(700, 720), "Aufnahme": "dp"})
    rows["Knöchel-Fraktur"] = ["ja", "nein", "fraglich", "nein"] * 5
    rows["Arthrose (Grad)"] = ["0", "2,5", "3", "4", "n.b."] * 4
    rows["Station"] = ["Notaufnahme", "Rheuma"] * 10
    rows["Kennung"], rows["Jahrgang"] = ["70001", "70002", "70003", "70004"] * 5, ["1950", "1951"] * 10
    rows["Notiz"] = ["ja", "Frau Huber", "Herr Öz", "Tochter"] * 5
    text = mapping_text(write(tmp_path / "list.csv", rows), None)
    assert '[study], too: labels = ["knochel_fraktur", "arthrose_grad"]' in text
    assert '#knochel_fraktur = { column = "Knöchel-Fraktur" }  #? perhaps: its cells are yes and no' in text
    assert '#arthrose_grad = { column = "Arthrose (Grad)", positive = [">= …"] }  #? perhaps: its cells are gra' in text
    assert '# In none of these, so left out: "dp". That is every image' in text
    assert '# Not used: "Station", "Kennung", "Jahrgang", "Notiz".' in text
    assert not any(cell in text for cell in ("7000", "195", "Huber"))
    text = confirmed(text, without=("That is every", "#view", "write each")).replace(">= …", ">= 3")
    text = text.replace('">= 3"]', '">= 3"], unknown = ["n.b."]')
    with pytest.raises(StudyError, match=r"knochel_fraktur: unknown key\. .* Others are named in \[study\] labels"):
        study_of(tmp_path, text)
    text = text.replace('kind = "table"', 'kind = "table"\nmissing_images = "later"')
    study = study_of(tmp_path, '[study]\nlabels = ["knochel_fraktur", "arthrose_grad"]\n' + text)
    build_cohort(study, "own")
    table = read_cohort(study, "own").set_index("image_id")
    assert table.loc["2.png", "knochel_fraktur"] is pd.NA
    assert table.loc[[f"{n}.png" for n in range(4)], "arthrose_grad"].tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize("header", ['a"]\n[study]\nseed = 7', "a\u2028b", "x\x7f", "'", "#?"])
def test_a_hostile_header_stays_inside_of_its_string(header: str, tmp_path: Path) -> None:
    rows = pd.DataFrame({"image": [f"{n}.png" for n in range(9)], "patient": range(9), header: 1, "pneumonia": 1})
    text = mapping_text(write(tmp_path / "list.csv", rows), None)
    study = study_of(tmp_path, confirmed(text, without=("not found",)))
    assert study.study.seed == 0


def test_the_command_writes_a_file_with_what_is_open_and_cohort_says_it_all_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    columns, sep, encoding, _ = LISTS["German"]
    folder = images(tmp_path / "klinik", [f"bilder/röntgen_{n:03d}.png" for n in range(N)])
    write(folder / "liste.csv", pd.DataFrame(columns), sep=sep, encoding=encoding)
    with pytest.raises(SystemExit) as end:
        main(["init", str(tmp_path / "s"), "--list", str(folder / "liste.csv"), "--images", str(folder / "bilder")])
    assert end.value.code == 0
    assert "lines to confirm" in capsys.readouterr().out
    with pytest.raises((SystemExit, StudyError)):  # a second list for the same study
        main(["init", str(tmp_path / "s"), "--list", str(folder / "liste.csv")])
    assert "For a second list copy its [domains.…] from there into this file" in capsys.readouterr().err
    text = (tmp_path / "s" / "study.toml").read_text(encoding="utf-8")
    assert text.count("\n") < 100
    with pytest.raises(SystemExit) as end:
        main(["cohort", str(tmp_path / "s")])
    assert end.value.code == 2
    told = capsys.readouterr().err
    for key in ("encoding", "separator", "image", "patient", "sex", "age", "view", "cardiomegaly", "female", "yes"):
        assert f": {key}" in told


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.csv", None, "no such file"),
        ("empty.csv", b"", r"empty \(0 bytes\)"),
        ("plain.csv.gz", b"image,patient\n", "not compressed, which its name does not say"),
        ("cut.csv.gz", gzip.compress(b"image,patient\n" * 99)[:30], "cannot be read as CSV"),
        ("list.csv", gzip.compress(b"image,patient\n" * 99), "compressed by gzip, which its name does not say"),
        ("broken.xlsx", b"PK\3\4", "cannot be read as a workbook"),
        ("locked.xlsx", b"\xd0\xcf\x11\xe0", "protected by a password, or of an old spreadsheet program"),
    ],
)
def test_a_list_that_cannot_be_looked_at_is_named(
    name: str, content: bytes | None, message: str, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(CohortError, match=message):
        mapping_text(tmp_path / name, None)
