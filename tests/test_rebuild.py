"""A cohort is built anew without removing files; what depends on the former one is named and kept."""

import re
from pathlib import Path

import cv2
import pandas as pd
import pytest

from dpdt.base.files import make_folder, write_json
from dpdt.cli import main
from dpdt.cohort.build import build_cohort
from dpdt.cohort.stage import done
from dpdt.cohort.table import cohort_done, read_cohort, read_record
from dpdt.errors import CohortError
from dpdt.shards.build import build_shards
from dpdt.shards.reader import shards_done
from dpdt.shards.verify import verify_shards
from dpdt.study import Study, load_study
from tests.small_images import picture

STUDY = """
[domains.own]
kind = "table"
root = "."
{more}
[domains.own.table]
file = "list.csv"
image = "image"
patient = "patient"
split = "set"
[domains.own.table.labels]
cardiomegaly = {{ column = "heart" }}
[shards]
size = 16
"""
ROWS = pd.DataFrame(
    {
        "image": [f"{n}.png" for n in range(12)],
        "patient": [f"P{n}" for n in range(12)],
        "set": ["train"] * 8 + ["val", "test", "test", "test"],
        "heart": ["1", "0"] * 6,
    }
)


def study_of(folder: Path, rows: pd.DataFrame = ROWS, more: str = "") -> Study:
    (folder / "study.toml").write_text(STUDY.format(more=more))
    rows.to_csv(folder / "list.csv", index=False)
    for name in rows["image"]:
        if not (folder / name).exists():
            cv2.imwrite(str(folder / name), picture(len(name)))
    return load_study(folder)


def trained(study: Study, run_id: str, domain: str = "own") -> None:
    """A run's folder, as far as a cohort looks at it."""
    paths = study.paths.run(run_id)
    make_folder(paths.folder)
    write_json(paths.config, {"domain": domain})


@pytest.mark.parametrize("change", ["list", "settings"])
def test_a_change_rebuilds_a_cohort_that_nothing_depends_on(change: str, tmp_path: Path) -> None:
    study = study_of(tmp_path)
    build_cohort(study, "own")
    assert done(study, "own")
    assert not build_cohort(study, "own").built
    study = (
        study_of(tmp_path, ROWS.iloc[:11]) if change == "list" else study_of(tmp_path, more='contradictions = "keep"')
    )
    assert not done(study, "own")
    assert build_cohort(study, "own").built
    assert done(study, "own")
    assert len(read_cohort(study, "own")) == (11 if change == "list" else 12)
    assert not list(study.paths.cohort_table("own").parent.glob("*.old-*"))


@pytest.mark.parametrize("change", ["list", "settings"])
def test_what_depends_on_a_cohort_is_named_and_the_cohort_stays(change: str, tmp_path: Path) -> None:
    study = study_of(tmp_path)
    build_cohort(study, "own")
    trained(study, "own-1")
    trained(study, "other-1", domain="other")
    make_folder(study.paths.run("other-1").predictions("own").parent)
    study.paths.run("other-1").predictions("own").touch()
    before = study.paths.cohort_table("own").read_bytes()
    study = (
        study_of(tmp_path, ROWS.assign(heart="1"))
        if change == "list"
        else study_of(tmp_path, more='contradictions = "keep"')
    )
    match = r"it is used \(trained on it: own-1; tested on it: other-1\)\. .*dpdt cohort .* --domain own --rebuild"
    with pytest.raises(CohortError, match=match):
        build_cohort(study, "own")
    assert study.paths.cohort_table("own").read_bytes() == before
    if change == "settings":
        with pytest.raises(CohortError, match=match):
            cohort_done(study, "own")


def test_the_former_cohort_is_kept_and_patients_that_moved_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = study_of(tmp_path)
    build_cohort(study, "own")
    trained(study, "own-1")
    before = read_cohort(study, "own")
    moved = ROWS.assign(set=["test", *ROWS["set"][1:11], "train"], patient=["p 0", *ROWS["patient"][1:]])
    study = study_of(tmp_path, moved)
    summary = build_cohort(study, "own", rebuild=True)
    assert summary.built
    told = capsys.readouterr().err
    assert re.search(r"the former cohort is .*cohort/own\.old-1\.\* \(trained on it: own-1\)", told)
    assert "1 patients were in train or val and are in test now" in told  # P0, however it is spelled
    assert "1 patients were in test and are in train or val now" in told
    assert "own-1 learned from the former cohort. `dpdt evaluate` refuses those" in told
    kept = study.paths.cohort_table("own").with_name("own.old-1.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(kept), before)
    for suffix in ("json", "exclusions.csv"):
        assert kept.with_name(f"own.old-1.{suffix}").is_file()
    assert [each["name"] for each in read_record(study, "own")["former"]] == ["own.old-1"]
    study = study_of(tmp_path, ROWS)
    build_cohort(study, "own", rebuild=True)
    assert [each["name"] for each in read_record(study, "own")["former"]] == ["own.old-1", "own.old-2"]


def test_the_same_cohort_built_again_sets_nothing_aside(tmp_path: Path) -> None:
    study = study_of(tmp_path)
    build_cohort(study, "own")
    trained(study, "own-1")
    assert build_cohort(study, "own", rebuild=True).built
    assert "former" not in read_record(study, "own")
    assert not list(study.paths.cohort_table("own").parent.glob("*.old-*"))


def test_shards_of_other_images_are_kept_beside_those_of_the_cohort_that_was_built_anew(tmp_path: Path) -> None:
    pytest.importorskip("dpdt._core")
    study = study_of(tmp_path)
    build_cohort(study, "own")
    build_shards(study, "own")
    assert shards_done(study, "own")
    study = study_of(tmp_path, ROWS.assign(heart="1"))
    build_cohort(study, "own", rebuild=True)
    assert shards_done(study, "own")  # the same images: their pixels stay
    study = study_of(tmp_path, ROWS.iloc[:11])
    with pytest.raises(CohortError, match=r"it is used \(its shards\)"):
        build_cohort(study, "own")
    build_cohort(study, "own", rebuild=True)
    assert not shards_done(study, "own")
    assert build_shards(study, "own").images == 11
    assert shards_done(study, "own")
    assert (study.paths.shards("own").folder.with_name("own.old-1") / "manifest.json").is_file()


@pytest.mark.parametrize("change", ["a label", "a policy"])
def test_a_change_of_what_a_label_means_leaves_the_pixels_as_they_are(
    change: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("dpdt._core")
    labels = '[study]\nlabels = ["cardiomegaly"{}]\n'
    file = study_of(tmp_path).file
    text = file.read_text()
    file.write_text(labels.format("") + text)
    study = load_study(file)
    build_cohort(study, "own")
    build_shards(study, "own")
    if change == "a label":
        file.write_text(labels.format(', "edema"') + text.replace("[shards]", 'edema = { column = "heart" }\n[shards]'))
    else:
        file.write_text(labels.format("") + text.replace('root = "."', 'root = "."\ncontradictions = "keep"'))
    study = load_study(file)
    with pytest.raises(CohortError, match=r"it is used \(its shards\)"):
        build_cohort(study, "own")
    build_cohort(study, "own", rebuild=True)
    shard = study.paths.shards("own").shard(0)
    made = shard.stat().st_ino
    assert not shards_done(study, "own")
    summary = build_shards(study, "own")
    assert (summary.built, summary.images) == (0, 12)
    assert shards_done(study, "own")
    assert shard.stat().st_ino == made
    assert "their shards stay" in capsys.readouterr().err
    assert not shard.parent.with_name("own.old-1").exists()
    assert verify_shards(study, "own") == []


def test_the_duplicates_across_splits_are_counted_again_in_a_cohort_that_was_built_anew(tmp_path: Path) -> None:
    """By hand: images 1 and 2 have the same pixels; first both are in train, then 2 is in test."""
    pytest.importorskip("dpdt._core")
    for number in range(12):
        cv2.imwrite(str(tmp_path / f"{number}.png"), picture(2 if number == 1 else number))
    study = study_of(tmp_path)
    build_cohort(study, "own")
    assert build_shards(study, "own").duplicates_across_splits == 0
    study = study_of(tmp_path, ROWS.assign(set=ROWS["set"].where(ROWS["image"] != "2.png", "test")))
    build_cohort(study, "own", rebuild=True)
    assert build_shards(study, "own").duplicates_across_splits == 2


def test_the_command_rebuilds_on_request_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = study_of(tmp_path)
    build_cohort(study, "own")
    trained(study, "own-1")
    study_of(tmp_path, ROWS.iloc[:11])
    for more, code in (([], 1), (["--rebuild"], 0)):
        with pytest.raises(SystemExit) as end:
            main(["cohort", str(tmp_path), *more])
        assert end.value.code == code
    assert "11 images of 11 patients" in capsys.readouterr().out
