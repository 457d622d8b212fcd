"""Where a domain's images are found: in their place, elsewhere by name, or nowhere."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from dpdt.cohort.build import build_cohort
from dpdt.cohort.hospitals import check_lists, read_domain
from dpdt.cohort.hospitals.file_search import there
from dpdt.cohort.hospitals.raw_cohort import RawCohort
from dpdt.cohort.synthetic import make_hospitals
from dpdt.cohort.synthetic.layouts import LAYOUTS
from dpdt.cohort.table import read_cohort, read_record
from dpdt.errors import CohortError
from dpdt.study import load_study
from dpdt.study.domain_settings import DomainSettings

LISTS = ("*.csv", "*.csv.gz", "*list.txt", "SYNTHETIC.txt")
FINDABLE = [kind for kind in LAYOUTS if kind != "chexpert"]  # its files are all called view1_frontal


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make_hospitals(tmp_path_factory.mktemp("published"), patients=4, image_size=32)


def read(kind: str, root: Path, **settings: object) -> RawCohort:
    return read_domain(kind, root, DomainSettings.model_validate({"root": root, **settings}))


def moved(source: Path, target: Path, place: Callable[[Path], str]) -> Path:
    """A copy of a hospital in which each image lies elsewhere; `place` gets its path below the root."""
    lists = {file for pattern in LISTS for file in source.rglob(pattern)}
    for file in (file for file in source.rglob("*") if file.is_file()):
        relative = file.relative_to(source)
        new = target / (relative if file in lists else place(relative))
        new.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, new)
    return target


def stems(root: Path, raw: RawCohort) -> dict[str, str]:
    """Image -> stem of its file, all of which are there."""
    assert all((root / path).is_file() for path in raw.frame["path"])
    return {image: Path(path).stem for image, path in zip(raw.frame["image_id"], raw.frame["path"], strict=True)}


@pytest.mark.parametrize("kind", LAYOUTS)
@pytest.mark.parametrize(
    "place",
    [
        lambda path: f"{path.parent}/{path.stem}.PNG",
        lambda path: f"images-512/{path.parent}/{path.stem}.jpeg",
        lambda path: f"{path.parts[0]}.zip/{path}",
    ],
    ids=["another suffix", "a copy of the tree", "unpacked into a folder of the archive's name"],
)
def test_images_are_found_whatever_their_suffix_or_folder(
    kind: str, place: Callable[[Path], str], published: dict[str, Path], tmp_path: Path
) -> None:
    before = read(kind, published[kind])
    root = moved(published[kind], tmp_path, place)
    after = read(kind, root)
    assert stems(root, after) == stems(published[kind], before)
    assert "images not found" not in after.counts
    if kind == "chexpert":  # each in its own patient's folder
        assert all(
            path.endswith(f"{image}{Path(path).suffix}") for image, path in after.frame[["image_id", "path"]].values
        )


@pytest.mark.parametrize("kind", FINDABLE)
def test_images_are_found_in_one_flat_folder(kind: str, published: dict[str, Path], tmp_path: Path) -> None:
    root = moved(published[kind], tmp_path, lambda path: f"images-224/{path.stem}.png")
    raw = read(kind, root)
    assert stems(root, raw) == stems(published[kind], read(kind, published[kind]))
    assert raw.counts["images found by name in another folder"] == len(raw.frame)


def test_the_nih_boxs_folders_are_found(published: dict[str, Path], tmp_path: Path) -> None:
    """The NIH's own archives, each unpacked in its own place: images_01 … images_12, with two digits."""
    root = moved(
        published["chestxray14"], tmp_path, lambda path: f"images_{len(path.stem) % 12:02d}/images/{path.name}"
    )
    assert len(stems(root, read("chestxray14", root))) > 0


def test_flat_names_that_several_images_share_are_given_to_none(published: dict[str, Path], tmp_path: Path) -> None:
    root = moved(published["chexpert"], tmp_path, lambda path: f"flat/{path.name}")
    with pytest.raises(CohortError, match=r"none of \d+ listed images is there: neither .*train/patient\w+/study"):
        read("chexpert", root)


@pytest.mark.parametrize("kind", LAYOUTS)
def test_missing_images_are_counted_in_every_domain(kind: str, published: dict[str, Path], tmp_path: Path) -> None:
    root = moved(published[kind], tmp_path, str)
    lost = read(kind, root).frame.iloc[1]
    (root / lost["path"]).unlink()
    raw = read(kind, root)
    assert raw.counts["images not found"] == 1
    assert raw.frame.set_index("image_id").loc[lost["image_id"], "path"].startswith(str(Path(lost["path"]).parent))
    without = read(kind, root, missing_images="exclude")
    assert set(raw.frame["image_id"]) - set(without.frame["image_id"]) == {lost["image_id"]}
    assert without.exclusions.set_index("image_id").loc[lost["image_id"], "reason"] == "image not found"


# ---- a hospital's own list ----

STUDY = """
[domains.own]
kind = "table"
root = "raw"
[domains.own.table]
file = "list.csv"
image = "image"
patient = "patient"
view = "view"
[domains.own.table.labels]
healthy = { column = "healthy" }
"""


def own(folder: Path, images: list[str], files: list[str], *, views: list[str] | None = None) -> Path:
    """A list, and files that are not images: nobody opens them here."""
    root = folder / "raw"
    root.mkdir(exist_ok=True)
    table = {"image": images, "patient": [f"p{n}" for n in range(len(images))], "view": "PA", "healthy": "1"}
    pd.DataFrame({**table, **({"view": views} if views else {})}).to_csv(root / "list.csv", index=False)
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).touch()
    return root


def found(root: Path, **settings: object) -> list[str]:
    table = {
        "file": "list.csv",
        "image": "image",
        "patient": "patient",
        "view": "view",
        "labels": {"healthy": {"column": "healthy"}},
        **dict(settings.pop("table", {})),  # type: ignore[call-overload]
    }
    return list(read("table", root, table=table, **settings).frame["path"])


@pytest.mark.parametrize(
    ("listed", "file"),
    [
        ("bilder\\1.png", "bilder/1.png"),
        ("C:\\export\\bilder\\1.png", "bilder/1.png"),
        ("/mnt/pacs/1.dcm", "png/1.png"),
        ("1", "1.dcm"),
        ("1.2.840.113.5", "x/1.2.840.113.5"),
        ("1.2.840.113.5", "1.2.840.113.5.dcm"),
        ("röntgen_1.jpg", "a/röntgen_1.JPG"),
        ("PNG/train/p1/s1/view1.jpg", "train/p1/s1/view1.png"),
        ("PNG/train/p1/s1/view1.jpg", "flat/p1_s1_view1.png"),
        ("train/p1/s1/view1.jpg", "train_p1_s1_view1.png"),
        ("röntgen_1.jpg", "ro\u0308ntgen_1.png"),  # as macOS writes it
    ],
)
def test_a_listed_name_and_its_file(listed: str, file: str, tmp_path: Path) -> None:
    assert found(own(tmp_path, [listed], [file, "1.json", "1.txt", ".hidden/1.png", "other/2.png"])) == [file]


def test_a_flat_name_that_two_images_may_have_is_given_to_none(tmp_path: Path) -> None:
    """`a_b_c` may be `a/b_c` or `a_b/c`, and a name that is in the list belongs to that row."""
    listed = ["p1/s1/v.png", "p2/s1/v.png", "a/b_c.png", "a_b/c.png", "x/y.png", "z/x_y.png"]
    root = own(tmp_path, listed, ["p1_s1_v.jpg", "s1_v.jpg", "a_b_c.jpg", "x_y.jpg"])
    places = dict(zip(listed, found(root), strict=True))
    assert places["p1/s1/v.png"] == "p1_s1_v.jpg"
    assert places["z/x_y.png"] == "x_y.jpg"
    assert all(places[name] == name for name in ("p2/s1/v.png", "a/b_c.png", "a_b/c.png", "x/y.png"))


def test_of_two_candidates_none_is_taken_until_a_folder_is_named(tmp_path: Path) -> None:
    root = own(tmp_path, ["1.png", "2.png"], ["a/1.png", "b/1.jpg", "a/2.png"])
    with pytest.raises(
        CohortError, match=r"1 listed images may be one of several.*, 1\.png: a/1\.png or b/1\.jpg below"
    ):
        found(root)
    assert found(root, image_folders=["a"]) == ["a/1.png", "a/2.png"]
    (root / "b" / "1.jpg").rename(root / "b" / "1.png")
    with pytest.raises(CohortError, match=r"1\.png: a/1\.png or b/1\.png below"):
        found(root, image_folders=["a", "b"])


def test_folders_tell_apart_what_the_name_does_not(tmp_path: Path) -> None:
    root = own(tmp_path, ["x/1.png", "y/1.png"], ["copy/y/1.jpg", "copy/x/1.jpg"])
    assert found(root) == ["copy/x/1.jpg", "copy/y/1.jpg"]
    root = own(tmp_path, ["x/2.png"], ["big/x/2.jpg", "big/z/2.jpg"])  # one row, two files: the nearer path
    assert found(root) == ["big/x/2.jpg"]


def test_no_image_gets_the_file_of_another_row(tmp_path: Path) -> None:
    """Of three images called 1 only the lateral's is there, which the cohort leaves out."""
    root = own(tmp_path, ["x/1.png", "y/1.png", "z/2.png"], ["y/1.png", "z/2.png"], views=["PA", "lateral", "PA"])
    assert found(root) == ["x/1.png", "z/2.png"]
    assert not (root / "x" / "1.png").exists()


def test_a_file_in_its_place_is_taken_whatever_else_has_its_name(tmp_path: Path) -> None:
    assert found(own(tmp_path, ["a/1.png"], ["a/1.png", "thumbs/1.png"])) == ["a/1.png"]


def test_two_names_of_one_file_are_one_and_a_link_to_above_ends(tmp_path: Path) -> None:
    root = own(tmp_path, ["1.png"], ["a/b/1.png"])
    (root / "a" / "again").symlink_to(root / "a" / "b")
    (root / "a" / "above").symlink_to(root)
    assert found(root) == ["a/again/1.png"]


def test_images_may_lie_in_several_folders_outside_of_the_root(tmp_path: Path) -> None:
    root = own(tmp_path, ["1.png", "2.png"], ["1.png", "2.png"])
    for number, disk in ((1, "disk"), (2, "other")):
        (tmp_path / disk / "deep").mkdir(parents=True)
        (tmp_path / disk / "deep" / f"{number}.jpg").touch()
    nowhere = DomainSettings.model_validate({"root": root, "image_folders": ["nowhere"]})
    paths = found(root, image_folders=[tmp_path / "disk", tmp_path / "other"])
    assert paths == [f"{tmp_path}/disk/deep/1.jpg", f"{tmp_path}/other/deep/2.jpg"]
    for look in (lambda: found(root, image_folders=["nowhere"]), lambda: check_lists("uka", root, nowhere)):
        with pytest.raises(CohortError, match=r"image_folders: no folder .*/nowhere\. Correct it"):
            look()


def test_a_folder_that_the_study_names_is_not_left(tmp_path: Path) -> None:
    root = own(tmp_path, ["1.png", "2.png"], ["small/1.png", "1.png", "2.png"])
    assert found(root, table={"images": "small"}) == ["small/1.png", "small/2.png"]  # the second is nowhere


def test_strangers_among_images_in_their_place_are_told_of(tmp_path: Path) -> None:
    root = own(tmp_path, ["2020/1.png", "2020/2.png"], ["2020/1.png", "2019/2.png"])
    table = {"file": "list.csv", "image": "image", "patient": "patient", "labels": {"healthy": {"column": "healthy"}}}
    raw = read("table", root, table=table)
    assert len(raw.warnings) == 1
    assert (
        "1 images were found by name in another folder than others of their own, the first: 2019/2.png"
        in raw.warnings[0]
    )


def test_an_image_that_is_nowhere_is_told_with_one_kind_of_slash(tmp_path: Path) -> None:
    """`…/11 Urgencias\\señor 0035.JPG` was what a newcomer read; with slashes it is found when it comes, too."""
    root = own(tmp_path, ["11 Urgencias\\señor 0035.JPG", "a\\1.png"], ["a/1.png"])
    assert found(root) == ["11 Urgencias/señor 0035.JPG", "a/1.png"]
    (root / "a" / "1.png").unlink()
    with pytest.raises(CohortError, match=r"11 Urgencias/señor 0035\.JPG, nor a file of that name"):
        found(root)


def test_another_years_folder_with_some_names_of_this_one_is_told_of(tmp_path: Path) -> None:
    root = own(tmp_path, ["01 Urgencias/1.png", "02 Planta/2.png"], ["05 Planta/1.png"])
    table = {"file": "list.csv", "image": "image", "patient": "patient", "labels": {"healthy": {"column": "healthy"}}}
    (told,) = read("table", root, table=table).warnings
    assert told.startswith(
        "1 images were found by name alone, the first: 05 Planta/1.png for 01 Urgencias/1.png, and 1 nowhere. Is it "
    )
    assert read("table", root, table=table, missing_images="later").warnings == ()  # a part alone is there yet


def test_what_is_left_out_is_counted_and_damaged_files_stay(tmp_path: Path) -> None:
    names = [f"{n}.png" for n in range(40)]
    own(tmp_path, names, names[:30])  # ten are not there; the thirty are empty files
    (tmp_path / "study.toml").write_text(STUDY.replace('root = "raw"', 'root = "raw"\nmissing_images = "exclude"'))
    study = load_study(tmp_path)
    summary = build_cohort(study, "own")
    assert (summary.rows_read, summary.images, summary.excluded) == (40, 30, {"image not found": 10})
    assert set(read_cohort(study, "own")["image_id"]) == set(names[:30])
    assert not any("not there" in text for text in read_record(study, "own")["warnings"])


def test_lists_alone_make_a_cohort_only_on_request(tmp_path: Path) -> None:
    own(tmp_path, [f"{n}.png" for n in range(40)], [])
    (tmp_path / "study.toml").write_text(STUDY)
    with pytest.raises(CohortError, match=r"none of 40 listed images is there: neither .*raw/0\.png, nor a file of"):
        build_cohort(load_study(tmp_path), "own")
    (tmp_path / "study.toml").write_text(STUDY.replace('root = "raw"', 'root = "raw"\nmissing_images = "later"'))
    assert build_cohort(load_study(tmp_path), "own").images == 40


def test_many_folders_are_asked_by_several_threads_and_absent_ones_once(tmp_path: Path) -> None:
    paths = [f"p{n % 7}/{n}/{name}.png" for n in range(600) for name in "abcdef"[: n % 6 + 1]]
    for path in paths:
        if not path.startswith("p3") and "/b.png" not in path:
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).touch()
    assert there(tmp_path, paths) == {path for path in paths if (tmp_path / path).is_file()}


def test_backslashes_are_read_as_slashes_below_the_named_folders_too(tmp_path: Path) -> None:
    root = own(tmp_path, ["a\\1.png", "a\\2.png"], ["a/1.png", "a/2.png", "small/a/1.png", "small/a/2.png"])
    assert found(root) == ["a/1.png", "a/2.png"]
    assert found(root, image_folders=["small"]) == ["small/a/1.png", "small/a/2.png"]


def test_a_missing_image_does_not_get_that_of_a_patient_who_is_not_listed(tmp_path: Path) -> None:
    """Numbers of images begin anew for each patient: 7.png of p0 is lost, and p9's was never in the list."""
    listed = [f"export/p{n // 2}/{n % 2}.png" for n in range(8)] + ["export/p0/7.png"]
    files = [f"new/p{n // 2}/{n % 2}.png" for n in range(8)]
    root = own(tmp_path, listed, [*files, "new/p9/7.png"])
    assert found(root) == [*files, "export/p0/7.png"]
    (root / "new" / "p0" / "7.png").touch()
    assert found(root) == [*files, "new/p0/7.png"]


def test_folders_and_links_to_nothing_are_no_images(tmp_path: Path) -> None:
    """An export with a folder for each UID, and links whose files were archived: `os.path.isfile` says no to both."""
    names = [f"1.2.840.{n}" for n in range(12)]
    root = own(tmp_path, names, [])
    for n, name in enumerate(names):
        if n % 3 == 0:
            (root / name).mkdir()
        elif n % 3 == 1:
            (root / name).symlink_to(root / "archive" / name)
        else:
            (root / name).touch()
    assert (
        found(root, missing_images="exclude") == [name for name in names if os.path.isfile(root / name)] == names[2::3]
    )


def test_a_name_that_is_not_utf_8_is_told(tmp_path: Path) -> None:
    root = own(tmp_path, ["1.png"], [])
    os.mkdir(os.fsencode(root) + b"/M\xfcller")
    with open(os.fsencode(root) + b"/M\xfcller/1.png", "wb"):
        pass
    with pytest.raises(CohortError, match=r"the image b'M\\xfcller/1.png' has a name that is not UTF-8, .* rename it"):
        found(root)
