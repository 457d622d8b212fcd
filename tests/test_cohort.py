import gzip
import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpdt.base.files import write_json
from dpdt.base.vocabulary import LABELS, SPLITS
from dpdt.cohort.build import CohortSummary, build_cohort, patient_fraction
from dpdt.cohort.synthetic import HOSPITALS, make_hospitals
from dpdt.cohort.table import COLUMNS, cohort_done, read_cohort, read_record
from dpdt.errors import CohortError, StudyError
from dpdt.study import Study, load_study


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make_hospitals(tmp_path_factory.mktemp("hospitals"), patients=40, image_size=32)


def write_study(folder: Path, roots: dict[str, Path], extra: str = "") -> Study:
    """A study of lists; the images that most of them name are nowhere."""
    extra += '\nmissing_images = "later"'
    sections = [f'[domains.{domain}]\nroot = "{root}"\n{extra}' for domain, root in roots.items()]
    (folder / "study.toml").write_text("\n".join(sections))
    return load_study(folder / "study.toml")


@pytest.fixture
def study(tmp_path: Path, hospitals: dict[str, Path]) -> Study:
    return write_study(tmp_path, hospitals)


def master_list(folder: Path, rows: list[dict[str, object]]) -> Path:
    """A hospital's own data in the form of a graded list."""
    sides = ("right", "left")
    grades = [f"{name}_{s}" for name in ("pleural_effusion", "pneumonic_infiltrates", "atelectasis") for s in sides]
    base = {"patient_sex": "F", "age": "50", "cardiomegaly": "1", **dict.fromkeys(grades, "1")}
    folder.mkdir(parents=True, exist_ok=True)
    pd.DataFrame([{"image_id": str(n), **base, **row} for n, row in enumerate(rows)]).to_csv(
        folder / "UKA_master_list.csv", index=False
    )
    return folder


# ---- tables ----


@pytest.mark.parametrize("domain", HOSPITALS)
def test_cohort_table_has_the_agreed_columns_sorted_by_image(study: Study, domain: str) -> None:
    summary = build_cohort(study, domain)
    table = read_cohort(study, domain)
    assert tuple(table.columns) == (*COLUMNS, *LABELS)
    assert list(table["image_id"]) == sorted(table["image_id"])
    assert isinstance(table.index, pd.RangeIndex)
    assert set(table["split"]) <= set(SPLITS)
    assert set(table["domain"]) == {domain}
    assert table["age_years"].dtype == np.float64
    assert all(table[label].dtype == "Int8" for label in LABELS)
    assert (summary.images, summary.patients) == (len(table), table["patient_id"].nunique())
    assert summary.rows_read == len(table) + sum(summary.excluded.values())
    assert summary.splits == {split: int((table["split"] == split).sum()) for split in SPLITS}


@pytest.mark.parametrize("domain", HOSPITALS)
def test_no_patient_in_two_splits_and_test_is_the_official_one(study: Study, domain: str) -> None:
    build_cohort(study, domain)
    table = read_cohort(study, domain)
    assert (table.groupby("patient_id")["split"].nunique() == 1).all()
    if domain == "chestxray14":
        official = (study.root(domain) / "test_list.txt").read_text().split("\n")
        assert set(table["image_id"][table["split"] == "test"]) == set(official)


def test_exclusions_are_written_with_their_reasons(study: Study) -> None:
    summary = build_cohort(study, "padchest")
    exclusions = pd.read_csv(study.paths.cohort_exclusions("padchest"))
    assert list(exclusions.columns) == ["image_id", "view", "reason"]
    assert exclusions["reason"].value_counts().to_dict() == summary.excluded


def test_an_image_with_no_known_label_is_left_out(tmp_path: Path) -> None:
    blank = dict.fromkeys(("cardiomegaly", "pleural_effusion_right", "pleural_effusion_left"), "")
    blank |= {f"{name}_{side}": "" for name in ("pneumonic_infiltrates", "atelectasis") for side in ("right", "left")}
    root = master_list(tmp_path / "raw", [{"subject_id": n, **(blank if n == 3 else {})} for n in range(30)])
    summary = build_cohort(write_study(tmp_path, {"uka": root}), "uka")
    assert summary.excluded == {"no known label": 1}
    assert summary.images == 29


# ---- healthy contradicting a finding ----


def test_a_finding_wins_over_healthy_and_is_counted(tmp_path: Path, study: Study) -> None:
    """PadChest's real table has 50 frontal images that are `normal` and have one of the four findings."""
    root = tmp_path / "padchest"
    root.mkdir()
    path = root / "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv"
    table = pd.read_csv(study.root("padchest") / path.name, dtype=str, keep_default_na=False)
    table.assign(Labels="['cardiomegaly', ' normal']", Projection="PA").to_csv(path, index=False)
    own = write_study(tmp_path, {"padchest": root})
    build_cohort(own, "padchest")
    table = read_cohort(own, "padchest")
    assert set(table["healthy"]) == {0}
    assert set(table["cardiomegaly"]) == {1}
    notes = {row["value"]: row["images"] for row in read_record(own, "padchest")["counts"] if row["what"] == "note"}
    assert notes["healthy with a finding, set to 0"] == len(table)


@pytest.mark.parametrize(
    ("rule", "healthy", "note"),
    [
        ("finding", [0], "set to 0"),
        ("unknown", [None], "set to unknown"),
        ("keep", [1], "kept"),
    ],
)
def test_contradictions_follow_the_named_rule(
    rule: str, healthy: list[int | None], note: str, tmp_path: Path, study: Study
) -> None:
    name = "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv"
    (tmp_path / "padchest").mkdir()
    table = pd.read_csv(study.root("padchest") / name, dtype=str, keep_default_na=False)
    table = table.assign(Labels="['cardiomegaly', ' normal']", Projection="PA")
    table.to_csv(tmp_path / "padchest" / name, index=False)
    own = write_study(tmp_path, {"padchest": tmp_path / "padchest"}, f'contradictions = "{rule}"')
    build_cohort(own, "padchest")
    found = read_cohort(own, "padchest")["healthy"].unique().tolist()
    assert [None if pd.isna(value) else value for value in found] == healthy
    record = read_record(own, "padchest")
    notes = {row["value"]: row["images"] for row in record["counts"] if row["what"] == "note"}
    assert notes[f"healthy with a finding, {note}"] == len(table)
    assert record["policies"]["contradictions"] == rule


# ---- idempotence ----


def test_second_call_changes_nothing_and_says_so(study: Study) -> None:
    assert not cohort_done(study, "uka")
    assert build_cohort(study, "uka").built
    files = sorted((study.folder / "cohort").iterdir())
    before = [file.stat().st_mtime_ns for file in files]
    again = build_cohort(study, "uka")
    assert isinstance(again, CohortSummary)
    assert not again.built
    assert [file.stat().st_mtime_ns for file in files] == before
    assert cohort_done(study, "uka")


def test_a_missing_table_is_built_again_with_the_same_bytes(study: Study) -> None:
    build_cohort(study, "uka")
    table = study.paths.cohort_table("uka")
    before = hashlib.sha256(table.read_bytes()).hexdigest()
    table.unlink()
    assert not cohort_done(study, "uka")
    assert build_cohort(study, "uka").built
    assert hashlib.sha256(table.read_bytes()).hexdigest() == before


def test_a_rebuild_killed_after_the_table_is_not_vouched_for_by_the_former_record(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_cohort(study, "uka")
    study.paths.cohort_table("uka").unlink()

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("dpdt.cohort.build.write_json", killed)
    with pytest.raises(KeyboardInterrupt, match=r"^$"):
        build_cohort(study, "uka")
    assert study.paths.cohort_table("uka").is_file()
    assert study.paths.cohort_exclusions("uka").is_file()
    assert not cohort_done(study, "uka")


def test_other_settings_are_an_error_where_something_depends_on_the_cohort(
    tmp_path: Path, hospitals: dict[str, Path]
) -> None:
    study = write_study(tmp_path, hospitals)
    build_cohort(study, "uka")
    write_json(study.paths.run("uka-1").config, {"domain": "uka"})
    before = study.paths.cohort_table("uka").read_bytes()
    changed = write_study(tmp_path, hospitals, "val_fraction = 0.3")
    for call in (build_cohort, read_cohort, read_record, cohort_done):
        with pytest.raises(CohortError, match=r"uka.json: this cohort was built with other settings.*uka-1.*--rebuild"):
            call(changed, "uka")
    assert study.paths.cohort_table("uka").read_bytes() == before


def test_missing_cohort_tells_the_command(study: Study) -> None:
    with pytest.raises(CohortError, match=r"no cohort yet. Run `dpdt cohort"):
        read_cohort(study, "uka")


def test_unknown_domain_and_unknown_file_name_are_study_errors(tmp_path: Path, hospitals: dict[str, Path]) -> None:
    study = write_study(tmp_path, {"uka": hospitals["uka"]}, 'files = { list = "x.csv" }')
    with pytest.raises(StudyError, match=r"no \[domains.vindr\] .*Known: uka"):
        build_cohort(study, "vindr")
    with pytest.raises(StudyError, match=r"domains.uka.files: unknown name 'list'. Valid names: table, images"):
        build_cohort(study, "uka")


# ---- record and summary ----


def test_record_has_hashes_of_inputs_and_split_and_says_synthetic(study: Study) -> None:
    build_cohort(study, "chestxray14")
    record = read_record(study, "chestxray14")
    root = study.root("chestxray14")
    assert record["synthetic"] is True
    assert record["fingerprint"] == study.cohort_fingerprint("chestxray14")
    assert {entry["file"] for entry in record["inputs"]} == {
        "Data_Entry_2017_v2020.csv",
        "train_val_list.txt",
        "test_list.txt",
    }
    for entry in record["inputs"]:
        assert entry["sha256"] == hashlib.sha256((root / entry["file"]).read_bytes()).hexdigest()
    table = read_cohort(study, "chestxray14")
    lines = "".join(
        f"{i}\t{p}\t{s}\n" for i, p, s in zip(table["image_id"], table["patient_id"], table["split"], strict=True)
    )
    assert record["split_sha256"] == hashlib.sha256(lines.encode()).hexdigest()


def test_record_names_every_policy_and_how_the_split_came_about(study: Study) -> None:
    for domain, rules in {
        "chexpert": {"uncertain": "paper", "blank": "negative", "test": "patients by hash, seed 0, test_fraction 0.2"},
        "mimic": {"uncertain": "paper", "test": "official", "val": "official"},
        "vindr": {"test": "official", "val": "patients of train by hash, seed 0, val_fraction 0.1"},
    }.items():
        build_cohort(study, domain)
        record = read_record(study, domain)
        assert record["policies"].items() >= {**rules, "views": "frontal", "contradictions": "finding"}.items()
        assert record["seed"] == 0


def test_views_of_every_row_read_are_counted(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    """LB-06 of the collected user reports: PA, AP, lateral and unknown, before anything is left out."""
    build_cohort(study, "mimic")
    views = {r["value"]: r["images"] for r in read_record(study, "mimic")["counts"] if r["what"] == "view read"}
    raw = pd.read_csv(study.root("mimic") / "mimic-cxr-2.0.0-metadata.csv.gz")["ViewPosition"]
    assert views == raw.fillna("unknown").value_counts().to_dict()
    assert "view read" in capsys.readouterr().out


def test_content_hash_does_not_depend_on_compression(study: Study, tmp_path: Path) -> None:
    build_cohort(study, "mimic")
    entry = read_record(study, "mimic")["inputs"][0]
    path = study.root("mimic") / entry["file"]
    assert entry["content_sha256"] == hashlib.sha256(gzip.decompress(path.read_bytes())).hexdigest()
    assert entry["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()


def test_unknown_version_of_a_label_file_warns_unless_it_is_synthetic(
    study: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """LB-09 of the collected user reports."""
    build_cohort(study, "chestxray14")
    assert "warning" not in capsys.readouterr().err
    root = tmp_path / "copy"
    shutil.copytree(study.root("chestxray14"), root, ignore=shutil.ignore_patterns("SYNTHETIC.txt", "images"))
    (tmp_path / "other").mkdir()
    own = write_study(tmp_path / "other", {"chestxray14": root})
    build_cohort(own, "chestxray14")
    assert "Data_Entry_2017_v2020.csv: not a version of this file that dpdt knows" in capsys.readouterr().err
    warnings = read_record(own, "chestxray14")["warnings"]
    assert sum("not a version of this file" in text for text in warnings) == 3
    assert [text for text in warnings if "images are not there, the first: " in text] == warnings[3:]


def test_patients_recorded_with_two_sexes_are_counted_and_left_as_recorded(tmp_path: Path) -> None:
    rows = [{"subject_id": n // 2, "patient_sex": "M" if n == 5 else "F"} for n in range(40)]
    study = write_study(tmp_path, {"uka": master_list(tmp_path / "raw", rows)})
    build_cohort(study, "uka")
    notes = {row["value"]: row["images"] for row in read_record(study, "uka")["counts"] if row["what"] == "note"}
    assert notes["patients with two sexes"] == 1
    assert (read_cohort(study, "uka")["sex"] == "male").sum() == 1


def test_without_the_marker_nothing_is_called_synthetic(tmp_path: Path) -> None:
    study = write_study(tmp_path, {"uka": master_list(tmp_path / "raw", [{"subject_id": n} for n in range(30)])})
    assert not build_cohort(study, "uka").synthetic


def test_summary_csv_holds_every_domain_built_so_far(study: Study) -> None:
    build_cohort(study, "uka")
    build_cohort(study, "mimic")
    summary = pd.read_csv(study.paths.cohort_summary)
    assert list(summary.columns) == ["domain", "split", "what", "value", "images", "patients"]
    assert set(summary["domain"]) == {"uka", "mimic"}
    table = read_cohort(study, "mimic")
    row = summary.query("domain == 'mimic' and split == 'train' and what == 'cardiomegaly' and value == 'positive'")
    positive = table[(table["split"] == "train") & (table["cardiomegaly"] == 1)]
    assert row[["images", "patients"]].to_numpy().tolist() == [[len(positive), positive["patient_id"].nunique()]]


def test_table_is_printed_with_a_column_a_split(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    build_cohort(study, "vindr")
    printed = capsys.readouterr().out
    for word in ("Cohort vindr (synthetic)", "rows read", "patients", "cardiomegaly", "train", "val", "test"):
        assert word in printed


# ---- checks ----


def test_patient_in_two_official_splits_is_named_as_a_hash_only(tmp_path: Path) -> None:
    rows = [{"subject_id": f"secret{n}", "split": "test" if n % 4 == 0 else "train"} for n in range(20)]
    rows += [{"subject_id": "SECRET4", "split": "train"}, {"subject_id": "secret5", "split": "test"}]
    study = write_study(tmp_path, {"uka": master_list(tmp_path / "raw", rows)}, "val_fraction = 0")
    with pytest.raises(CohortError, match=r"uka: 2 patients are in more than one split\. The published") as raised:
        build_cohort(study, "uka")
    assert "secret" not in str(raised.value).casefold()
    assert not study.paths.cohort_table("uka").exists()


def test_repeated_image_is_named_by_its_rows(tmp_path: Path) -> None:
    rows = [{"subject_id": n} for n in range(20)] + [{"subject_id": 3, "image_id": "3"}]
    study = write_study(tmp_path, {"uka": master_list(tmp_path / "raw", rows)})
    with pytest.raises(CohortError, match="1 rows repeat an image_id, first rows 5 and 22 of the raw table"):
        build_cohort(study, "uka")


def test_partly_missing_official_split_is_an_error(tmp_path: Path) -> None:
    rows = [{"subject_id": n, "split": "" if n == 2 else "train"} for n in range(20)]
    study = write_study(tmp_path, {"uka": master_list(tmp_path / "raw", rows)})
    with pytest.raises(CohortError, match="1 of 20 rows have no official split"):
        build_cohort(study, "uka")


def test_no_training_image_is_an_error(tmp_path: Path) -> None:
    rows = [{"subject_id": n, "split": "test"} for n in range(5)]
    study = write_study(tmp_path, {"uka": master_list(tmp_path / "raw", rows)})
    with pytest.raises(CohortError, match=r"no image is left for training: the 5 images of 5 patients are in test 5"):
        build_cohort(study, "uka")


def test_official_val_is_used_and_none_is_carved(tmp_path: Path) -> None:
    rows = [{"subject_id": n, "split": ("train", "valid", "test")[n % 3]} for n in range(60)]
    study = write_study(tmp_path, {"uka": master_list(tmp_path / "raw", rows)}, "val_fraction = 0.9")
    assert build_cohort(study, "uka").splits == {"train": 20, "val": 20, "test": 20}


# ---- the hashed split ----

patient_ids = st.from_regex(r"[A-Za-z1-9][A-Za-z0-9_-]{0,11}", fullmatch=True)


@given(patient_ids, st.integers(0, 5))
def test_a_patients_place_depends_on_the_id_and_the_salt_alone(patient: str, seed: int) -> None:
    place = patient_fraction(patient, salt=f"{seed}:test")
    assert 0 <= place < 1
    assert place == patient_fraction(f" 00{patient}", salt=f"{seed}:test")


def test_the_hash_is_sha256_of_salt_and_id() -> None:
    """`printf dpdt:0:test:12 | sha256sum` (coreutils) begins with 3297e80626fd004a; the first 53 bits count."""
    assert patient_fraction("012", salt="0:test") == (0x3297E80626FD004A >> 11) / 2**53


def test_the_hash_is_uniform() -> None:
    places = np.array([patient_fraction(str(n), salt="0:val") for n in range(1, 20_001)])
    counts = np.histogram(places, bins=10, range=(0, 1))[0]
    assert abs(counts - 2_000).max() < 200  # 4.7 standard deviations of a binomial count


def split_of(tmp_path: Path, name: str, patients: list[int], seed: int = 0) -> dict[str, str]:
    folder = tmp_path / name
    rows = [{"image_id": f"i{p}", "subject_id": f"{p}"} for p in patients]
    master_list(folder / "raw", rows)
    (folder / "study.toml").write_text(f'[study]\nseed = {seed}\n[domains.uka]\nroot = "raw"\nmissing_images = "later"')
    study = load_study(folder / "study.toml")
    build_cohort(study, "uka")
    table = read_cohort(study, "uka")
    return dict(zip(table["patient_id"], table["split"], strict=True))


def test_adding_patients_moves_nobody_and_another_seed_does(tmp_path: Path) -> None:
    some = split_of(tmp_path, "some", list(range(200)))
    more = split_of(tmp_path, "more", list(range(400))[::-1])
    assert {patient: more[patient] for patient in some} == some
    other = split_of(tmp_path, "other", list(range(200)), seed=1)
    assert other != some


def test_fractions_are_met_and_val_comes_out_of_train(tmp_path: Path) -> None:
    places = split_of(tmp_path, "many", list(range(4_000)))
    shares = pd.Series(places).value_counts(normalize=True)
    assert shares["test"] == pytest.approx(0.2, abs=0.02)
    assert shares["val"] == pytest.approx(0.8 * 0.1, abs=0.015)
    without = {patient for patient, split in places.items() if split == "test"}
    assert without == {p for p in places if patient_fraction(p, salt="0:test") < 0.2}


def test_record_is_plain_json(study: Study) -> None:
    build_cohort(study, "vindr")
    json.loads(study.paths.cohort_record("vindr").read_text())
