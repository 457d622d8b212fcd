"""The paper's analysis of domain transfer, and a report from a table of AUCs alone."""

import math
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.figure import Figure

from dpdt.errors import StudyError
from dpdt.report import figures
from dpdt.report.format import plain
from dpdt.report.from_csv import read_auc_table, write_published
from dpdt.report.gain import gains
from dpdt.report.grid import Grid
from dpdt.report.transfer import transfer_pairs, transfer_table
from dpdt.report.write import write_report
from tests.fake_runs import FakeRuns

# Two hospitals, two labels, made up. On a: own model .90 and .80; from b .85 and .70 without DP, .80 and .72 with DP.
TABLE = """epsilon_band,label,subgroup,train_domain,test_domain,auc
inf,cardiomegaly,all,a,a,0.90
inf,healthy,all,a,a,0.80
inf,cardiomegaly,all,b,a,0.85
inf,healthy,all,b,a,0.70
0-1,cardiomegaly,all,b,a,0.80
0-1,healthy,all,b,a,0.72
0-1,cardiomegaly,all,a,a,0.88
0-1,healthy,all,a,a,0.78
inf,cardiomegaly,all,a,b,0.60
inf,healthy,all,a,b,0.65
0-1,cardiomegaly,all,a,b,0.60
0-1,healthy,all,a,b,
inf,cardiomegaly,all,b,b,0.75
inf,healthy,all,b,b,0.75
"""


def paper_tables() -> Path:
    """The paper's figures, which are not part of the repository."""
    given = os.environ.get("DPDT_PAPER_TABLES")
    data = os.environ.get("DPDT_REAL_DATA")
    folder = Path(given) if given else Path(data) / ".." / "paper" if data else None
    if folder is None or not (folder / "auc.csv").is_file():
        pytest.skip("the paper's tables are not here: set DPDT_PAPER_TABLES to the folder of auc.csv")
    return folder


@pytest.fixture
def table(tmp_path: Path) -> Path:
    file = tmp_path / "auc.csv"
    file.write_text(TABLE)
    return file


def transfer(file: Path) -> tuple[pd.DataFrame, Grid]:
    auc, grid = read_auc_table(pd.read_csv(file, dtype={"epsilon_band": str}), file.name)
    return transfer_table(auc, grid), grid


def test_falls_and_t_of_a_table_calculated_by_hand(table: Path) -> None:
    found, grid = transfer(table)
    why = "the table has no rows of epsilon 0, the model before all trainings"
    assert grid == Grid(("a", "b"), ("a", "b"), (math.inf, 1.0), {math.inf: "no DP", 1.0: "ε 0–1"}, why)
    on_a = found.set_index("test_domain").loc["a"]
    # Falls without DP .05 and .10, mean .075; with DP .10 and .08, mean .09.
    assert on_a["fall_no_dp"] == pytest.approx(0.075)
    assert on_a["fall_dp"] == pytest.approx(0.09)
    assert on_a["on_domain_auc"] == pytest.approx(0.85)
    # Differences +.05 and -.02: mean .015, standard deviation .07 / sqrt 2, error .035, t = .015 / .035 = 3/7 with one
    # degree of freedom, P = 1 - 2/pi atan(3/7).
    assert on_a["t"] == pytest.approx(3 / 7)
    assert on_a["p"] == pytest.approx(1 - 2 / math.pi * math.atan(3 / 7))
    assert on_a["pairs"] == 2


def test_pairs_without_an_auc_are_left_out_and_counted(table: Path) -> None:
    on_b = transfer(table)[0].set_index("test_domain").loc["b"]
    assert (on_b["pairs"], on_b["reason"]) == (1, "1 pairs, fewer than 2; without 1 of 2 pairs (no AUC)")
    assert math.isnan(on_b["p"])
    assert on_b["fall_no_dp"] == pytest.approx(0.15)


def test_dp_that_lowers_every_auc_alike_has_no_t(tmp_path: Path) -> None:
    # On a from b: .85 and .70 without DP, .80 and .65 with it: differences of .05 but for rounding, no spread.
    file = tmp_path / "auc.csv"
    file.write_text(TABLE.replace("b,a,0.72", "b,a,0.65"))
    on_a = transfer(file)[0].set_index("test_domain").loc["a"]
    assert on_a["reason"] == "all differences are equal"
    assert math.isnan(on_a["t"])
    assert on_a["difference"] == pytest.approx(0.05)


def test_the_paper_s_falls_and_p_values() -> None:
    folder = paper_tables()
    found, grid = transfer(folder / "auc.csv")
    strongest = found[found["target_epsilon"] == 1.0].set_index("test_domain")
    assert list(strongest.index) == ["vindr", "chestxray14", "chexpert", "uka", "padchest"]
    # Published: 0.07/0.07, 0.07/0.06, 0.07/0.07, 0.18/0.18, 0.07/0.07 and P = .96, .12, .18, .90, .35. The two-decimal
    # table gives .96, .12, .14, .67, .27, and .08 for chexpert with DP.
    falls = [(plain(row.macro_fall_dp, 2), plain(row.macro_fall_no_dp, 2)) for row in strongest.itertuples()]
    assert falls == [("0.07", "0.07"), ("0.07", "0.06"), ("0.08", "0.07"), ("0.18", "0.18"), ("0.07", "0.07")]
    assert [round(p, 2) for p in strongest["p"]] == [0.96, 0.12, 0.14, 0.67, 0.27]
    assert (strongest["pairs"] == 20).all()
    auc = read_auc_table(pd.read_csv(folder / "auc.csv", dtype={"epsilon_band": str}), "auc.csv")[0]
    assert len(transfer_pairs(auc, grid, 1.0, "uka")) == 20


def test_the_paper_s_tables_make_a_whole_report(tmp_path: Path) -> None:
    folder = paper_tables()
    names = ("auc.csv", "test_set_sizes.csv", "on_domain_epsilon_auc.csv")
    page = write_published([folder / name for name in names], tmp_path)
    html = page.read_text(encoding="utf-8")
    # 4 arms x (average + 5 labels), two curves, two subgroup figures, the sizes, the story, labels and groups by scope
    assert len(re.findall(r'<svg role="img"', html)) == 4 * 6 + 2 + 2 + 1 + 1 + 2 * 2
    # Means of the published macro AUCs: on-domain .94 .78 .82 .88 .89 without DP, .89 .74 .79 .84 .84 with DP.
    assert "at the models&#39; own hospital, where macro AUC is 0.862 without DP, it is" in html
    assert "0.042 lower with ε\u00a00\u2060–\u20601; at the other hospitals" in html
    assert "0.005 lower with ε\u00a00\u2060–\u20601." in html
    assert "is not known: the table has no rows of epsilon 0, the model before all trainings." in html
    assert "<script" not in html
    # The macro AUC of the model of chexpert without DP on its own patients, as published.
    auc = pd.read_csv(tmp_path / "auc.csv")
    chosen = (auc["train_domain"] == "chexpert") & (auc["test_domain"] == "chexpert") & (auc["subgroup"] == "all")
    assert auc[chosen & (auc["label"] == "average") & (auc["target_epsilon"] == math.inf)]["auc"].item() == 0.82


def test_the_paper_s_figure_of_subgroup_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = pd.read_csv(paper_tables() / "test_set_sizes.csv")
    drawn: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: drawn.append(figure))
    figures.sizes_figure(sizes[sizes["positive_label"] == "any"])
    [axes] = drawn[0].axes
    bars = {str(bars.get_label()): [bar.get_width() for bar in bars] for bars in axes.containers}
    # Published test images: of chexpert's 29,320 are 11,436 of women, 17,884 of men, 8,509 from the age of 70.
    assert [label.get_text().split("\n")[0] for label in axes.get_yticklabels()][2] == "CheXpert"
    assert bars["female"][2] == pytest.approx(100 * 11_436 / 29_320)
    assert bars["male"][2] == pytest.approx(100 * 17_884 / 29_320)
    assert bars["ages 70 to 100"][2] == pytest.approx(100 * 8_509 / 29_320)
    # vindr has the sex of 552 + 702 of 3,000 images only.
    assert bars["female"][0] + bars["male"][0] == pytest.approx(100 * 1_254 / 3_000)
    counts = sizes[sizes["positive_label"] == "any"].pivot(index="test_domain", columns="subgroup", values="images")
    assert counts["all"].sum() == 119_785


@pytest.mark.slow
def test_a_table_of_auc_over_epsilon_is_drawn_and_checked(table: Path, tmp_path: Path) -> None:
    spent = tmp_path / "spent.csv"
    spent.write_text("domain,epsilon,auc\na,0.5,0.8\na,5,0.9\nb,1,0.7\n")
    html = write_published([table, spent], tmp_path / "out").read_text(encoding="utf-8")
    assert "On-domain AUC over the ε that was spent" in html
    assert (tmp_path / "out" / "figures" / "auc_over_spent_epsilon.svg").is_file()
    spent.write_text("domain,epsilon,auc\na,0.5,0.8\na,-1,0.9\n")
    with pytest.raises(StudyError, match=r"expected epsilon above 0 and auc in .*, got epsilon -1.0, auc 0.9 for a"):
        write_published([table, spent], tmp_path / "out")
    (tmp_path / "twice.csv").write_text(spent.read_text())
    with pytest.raises(StudyError, match=r"at most one table of AUCs over epsilon, got 2"):
        write_published([table, spent, tmp_path / "twice.csv"], tmp_path / "out")


@pytest.mark.parametrize(("start", "share"), [("0.70", 0.8), ("0.81", math.nan)])
def test_a_share_of_rounded_numbers_needs_a_gain_of_five_times_their_error(
    tmp_path: Path, start: str, share: float
) -> None:
    """On a: .85 without DP and .82 with it. Over .70 they gain .15 and .12; over .81 the gain of .04 is .03 to .05."""
    file = tmp_path / "auc.csv"
    rows = "inf,{0},all,a,a,0.85\n0-1,{0},all,a,a,0.82\n0,{0},all,a,a,{1}\n".format("healthy", start)
    file.write_text(TABLE.splitlines()[0] + "\n" + rows)
    auc, grid = read_auc_table(pd.read_csv(file, dtype={"epsilon_band": str}), file.name)
    assert gains(grid, auc)[-1].share == pytest.approx(share, nan_ok=True)
    auc["auc"] += 0.001  # three decimals: the gains are the same, and no longer rounded so
    assert gains(grid, auc)[-1].share == pytest.approx(0.25 if math.isnan(share) else share)


def test_a_small_table_makes_a_report(table: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    html = write_published([table], folder).read_text(encoding="utf-8")
    assert "Published AUCs: auc.csv" in html
    assert "Who was studied" not in html
    for absent in ("Bars are", "Dotted", "bands and bars", "two decimals", "over test patients alone", "One training"):
        assert absent not in html, absent
    assert "Its δ, and what its ε protects (a patient or an image), are not known here." in html
    assert "own row <code>average</code>" in html
    assert "Does DP lower AUC on other domains?" in html
    assert "0.075" in html  # the macro fall on a without DP, by hand: .85 less .775
    assert not re.search(r'(?:href|url\()\s*["\']?(?:https?:)?//', html)
    for link in re.findall(r'<a href="([^"#]+)"', html):
        assert (folder / link).is_file(), link
    assert r"\toprule" in (folder / "tables" / "transfer_eps1.tex").read_text()
    kinds = {file.suffix for file in (folder / "figures").iterdir()}
    assert kinds == {".png", ".svg", ".pdf", ".csv"}
    assert (folder / "figures" / "auc_epsinf_average.pdf").read_bytes().startswith(b"%PDF")


def test_the_report_s_own_auc_csv_can_be_read_back(
    fake_runs: Callable[..., FakeRuns], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("draw", "draw_differences", "draw_story"):  # figures are drawn in other tests, and take long
        monkeypatch.setattr(f"dpdt.report.page.{name}", lambda *_: {})
    monkeypatch.setattr("dpdt.report.write.draw_study", lambda *_: {})
    study = fake_runs(("vindr", "uka"), "[1.0, inf]").all().study
    write_report(study)
    write_published([study.paths.report / "auc.csv"], tmp_path / "again")
    first = pd.read_csv(study.paths.report / "transfer.csv")
    second = pd.read_csv(tmp_path / "again" / "transfer.csv")
    pd.testing.assert_frame_equal(first, second, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("epsilon_band", "privacy", r"no column epsilon_band or target_epsilon; found privacy, label"),
        (",auc\n", ",area\n", r"no column auc; found"),
        ("0.90", "1.90", r"auc: expected numbers in \[0, 1\], got '1\.9'"),
        ("0.90", "good", r"auc: expected numbers in \[0, 1\], got 'good'"),
        ("0-1,healthy,all,b,a", "0-1,cardiomegaly,all,b,a", r"the cell cardiomegaly, all, b, a is there twice"),
        ("0-1,", "strong,", r"expected a number, a band or inf, got 'strong'"),
    ],
)
def test_a_wrong_table_is_a_clear_error(table: Path, tmp_path: Path, old: str, new: str, message: str) -> None:
    table.write_text(TABLE.replace(old, new))
    with pytest.raises(StudyError, match=message):
        write_published([table], tmp_path / "out")


def test_missing_files_and_two_tables_are_clear_errors(table: Path, tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"--from-csv .*none\.csv: no such file"):
        write_published([tmp_path / "none.csv"], tmp_path / "out")
    other = tmp_path / "other.csv"
    other.write_text(TABLE)
    with pytest.raises(StudyError, match=r"expected one table of AUCs, got 2 of 2 files"):
        write_published([table, other], tmp_path / "out")


@pytest.mark.slow
def test_the_command_takes_a_study_or_a_table_but_not_both(table: Path, tmp_path: Path) -> None:
    def dpdt(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "dpdt", "report", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)

    made = dpdt("--from-csv", str(table), "--output", str(tmp_path / "out"))
    assert (made.returncode, made.stderr) == (0, "")
    assert (tmp_path / "out" / "index.html").is_file()
    wrong = dpdt()
    assert wrong.returncode == 2
    assert "either STUDY or --from-csv FILE" in wrong.stderr


def auc_rows(*epsilons: object) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "target_epsilon": epsilons,
            "label": "average",
            "subgroup": "all",
            "train_domain": "a",
            "test_domain": "a",
            "auc": 0.7,
        }
    )


def test_a_number_with_an_exponent_is_no_band() -> None:
    """Python writes 0.00001 as 1e-05, which is not a band from 1e to 5."""
    grid = read_auc_table(auc_rows(0.00001, math.inf), "small.csv")[1]
    assert grid.epsilons == (math.inf, 0.00001)
    assert "–" not in grid.name(0.00001)
    assert read_auc_table(auc_rows("2-3.5", "inf"), "band.csv")[1].name(3.5) == "ε 2–3.5"


def test_a_negative_epsilon_is_refused() -> None:
    with pytest.raises(StudyError, match=r"minus\.csv: epsilon: expected a number from 0, a band or inf, got '-1'"):
        read_auc_table(auc_rows("-1", "inf"), "minus.csv")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("a,any,female,10\n", "no row of positive_label any, subgroup all for a"),
        ("a,healthy,all,5\n", "no row of positive_label any, subgroup all for any test domain"),
        ("a,any,all,many\n", "expected images from 0, got many for a, all"),
        ("a,any,all,10\na,any,male,-1\n", "expected images from 0, got -1 for a, male"),
    ],
)
def test_sizes_that_cannot_be_drawn_are_a_clear_error(rows: str, message: str, tmp_path: Path) -> None:
    """A group is drawn as a part of all patients' images, so that these must be there, and be numbers."""
    table, sizes = tmp_path / "auc.csv", tmp_path / "sizes.csv"
    auc_rows(1.0, math.inf).to_csv(table, index=False)
    sizes.write_text(f"test_domain,positive_label,subgroup,images\n{rows}")
    with pytest.raises(StudyError, match=f"--from-csv: test images: {message}"):
        write_published([table, sizes], tmp_path / "out")
