"""`dpdt apply`: radiographs through a bundle's own preprocessing to a table of scores, without a study."""

import csv
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from dpdt.base.vocabulary import LABELS
from dpdt.bundle.apply import CHUNK, apply_bundle, find_files
from dpdt.bundle.card import NOTICE
from dpdt.bundle.container import pack, unpack
from dpdt.bundle.model import Bundle, checked_scorer, parse_bundle
from dpdt.cli import app
from dpdt.errors import BundleError
from dpdt.shards.process import process_images
from dpdt.study.settings import ModelSettings, ShardSettings
from dpdt.training.networks.build import as_input, build_model
from tests.fuzz_bundle import seed_bundle
from tests.small_images import picture, write_dicom


@pytest.fixture(scope="module")
def data() -> bytes:
    """A bundle of random weights whose self-test passes."""
    torch.manual_seed(0)
    manifest, tensors = unpack(seed_bundle(), "seed")
    model = model_of(tensors)
    for number, test in enumerate(manifest["self_test"]):
        with torch.inference_mode():
            scores = torch.sigmoid(model(as_input(tensors[f"test.{number}.pixels"][None])))[0]
        test["scores"] = dict(zip(LABELS, map(float, scores), strict=True))
    manifest["thresholds"] |= {"pneumonia": None, "healthy": 0.0, "cardiomegaly": 1.0}
    return pack(manifest, tensors)


def model_of(tensors: dict[str, Any]) -> torch.nn.Module:
    model = build_model(ModelSettings(width=8)).eval()
    model.load_state_dict(
        {k.removeprefix("weights."): torch.from_numpy(v) for k, v in tensors.items() if "weights" in k}
    )
    return model


@pytest.fixture(scope="module")
def bundle(data: bytes) -> Bundle:
    return parse_bundle(data, "b")


def files_in(folder: Path, count: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        cv2.imwrite(str(folder / f"{number:05d}.png"), picture(number))


def rows_of(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8", errors="surrogateescape") as stream:
        return list(csv.DictReader(stream))


def test_scores_are_those_of_the_shards_pixels_and_the_network(bundle: Bundle, tmp_path: Path) -> None:
    files_in(tmp_path / "in", 3)
    write_dicom(tmp_path / "in" / "b.dcm", picture(7, dtype=np.uint16), PhotometricInterpretation="MONOCHROME1")
    cv2.imwrite(str(tmp_path / "in" / "c.jpg"), picture(8))
    files = find_files([str(tmp_path / "in")])
    apply_bundle(bundle, checked_scorer(bundle, "b", device="cpu"), files, tmp_path / "scores.csv")
    pixels = np.empty((5, 8, 8), dtype=np.uint8)
    process_images(files, pixels, settings=ShardSettings(size=8), advance=lambda _: None)
    model = build_model(ModelSettings(width=8)).eval()
    model.load_state_dict({name: torch.from_numpy(value.copy()) for name, value in bundle.weights.items()})
    with torch.inference_mode():
        expected = torch.sigmoid(model(as_input(pixels))).numpy()
    rows = rows_of(tmp_path / "scores.csv")
    assert [row["file"] for row in rows] == files
    found = np.array([[float(row[f"{label}_score"]) for label in LABELS] for row in rows])
    assert np.abs(found - expected).max() < 2e-6  # six decimals
    assert {row["healthy_positive"] for row in rows} == {"1"}  # threshold 0
    assert {row["cardiomegaly_positive"] for row in rows} == {"0"}  # threshold 1
    assert {row["pneumonia_positive"] for row in rows} == {""}  # no threshold
    assert {row["notice"] for row in rows} == {NOTICE}


def test_files_that_cannot_be_used_are_rows_with_a_reason(bundle: Bundle, tmp_path: Path) -> None:
    files_in(tmp_path, 1)
    (tmp_path / "a.txt").write_text("no image")
    (tmp_path / ".list").write_text(f"{tmp_path}/00000.png\n{tmp_path}/a.txt\n{tmp_path}/missing.png\n")
    files = find_files([], listed=tmp_path / ".list")
    summary = apply_bundle(bundle, checked_scorer(bundle, "b"), files, tmp_path / "scores.csv")
    rows = rows_of(tmp_path / "scores.csv")
    assert rows[0]["reason"] == ""
    assert rows[1]["reason"] not in ("", "missing")
    assert rows[2]["reason"] == "missing"
    assert sum(summary.reasons.values()) == 2
    assert rows[1]["healthy_score"] == ""
    assert "1 images scored, 2 rejected" in str(summary)
    assert "No decision (_positive) for pneumonia: the bundle has no threshold of it." in str(summary)
    assert "Not a medical device" in str(summary)


def test_files_of_a_list_and_of_folders_come_in_order_without_hidden_ones(tmp_path: Path) -> None:
    files_in(tmp_path / "b", 2)
    files_in(tmp_path / "b" / ".cache", 1)
    files_in(tmp_path / "a", 1)
    (tmp_path / "list.txt").write_text(f"{tmp_path}/a\n\n{tmp_path}/x.png\n")
    found = find_files([str(tmp_path / "b")], listed=tmp_path / "list.txt")
    assert [str(Path(file).relative_to(tmp_path)) for file in found] == [
        "b/00000.png",
        "b/00001.png",
        "a/00000.png",
        "x.png",
    ]
    with pytest.raises(BundleError, match="no file to score"):
        find_files([])
    with pytest.raises(BundleError, match="cannot be read"):
        find_files([], listed=tmp_path / "none")


def test_a_mistyped_folder_or_a_list_of_nothing_leaves_earlier_scores_alone(data: bytes, tmp_path: Path) -> None:
    files_in(tmp_path / "in", 1)
    (tmp_path / "b.dpdt").write_bytes(data)
    (tmp_path / "list.txt").write_text("in/00000.png\n")  # below tmp_path, and the working folder is another
    scores = tmp_path / "scores.csv"
    scores.write_text("earlier")
    for wrong in ([str(tmp_path / "in"), "nada"], ["--list", str(tmp_path / "list.txt")]):
        result = CliRunner().invoke(app, ["apply", str(tmp_path / "b.dpdt"), *wrong, "--output", str(scores)])
        assert isinstance(result.exception, BundleError)
        assert scores.read_text() == "earlier"
    with pytest.raises(BundleError, match="nada: no such file or folder"):
        find_files([str(tmp_path / "in"), "nada"])
    with pytest.raises(BundleError, match="none of its 1 paths is there"):
        find_files([], listed=tmp_path / "list.txt")


def test_a_files_name_is_no_formula_for_a_spreadsheet(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    cv2.imwrite("=cmd.png", picture(0))
    summary = apply_bundle(bundle, checked_scorer(bundle, "b"), ["=cmd.png"], Path("scores.csv"))
    assert summary.scored == 1
    assert rows_of(tmp_path / "scores.csv")[0]["file"] == "./=cmd.png"


def test_results_do_not_depend_on_chunks(bundle: Bundle, tmp_path: Path) -> None:
    files_in(tmp_path / "in", CHUNK + 9)
    score = checked_scorer(bundle, "b", device="cpu")
    files = find_files([str(tmp_path / "in")])
    apply_bundle(bundle, score, files, tmp_path / "all.csv")
    apply_bundle(bundle, score, files[-3:], tmp_path / "some.csv")
    assert rows_of(tmp_path / "all.csv")[-3:] == rows_of(tmp_path / "some.csv")


def test_a_bad_bundle_writes_nothing(data: bytes, tmp_path: Path) -> None:
    files_in(tmp_path / "in", 1)
    (tmp_path / "bad.dpdt").write_bytes(data[:-1])
    done = CliRunner().invoke(
        app, ["apply", str(tmp_path / "bad.dpdt"), str(tmp_path / "in"), "--output", str(tmp_path / "s.csv")]
    )
    assert isinstance(done.exception, BundleError)
    assert not (tmp_path / "s.csv").exists()


def test_the_command_fails_where_nothing_could_be_scored(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "good.dpdt").write_bytes(data)
    (tmp_path / "a.png").write_text("no image")
    arguments = ["apply", str(tmp_path / "good.dpdt"), str(tmp_path / "a.png"), "--output", str(tmp_path / "s.csv")]
    assert CliRunner().invoke(app, arguments).exit_code == 1
    files_in(tmp_path / "in", 1)
    done = CliRunner().invoke(app, [*arguments[:2], str(tmp_path / "in"), *arguments[3:]])
    assert done.exit_code == 0, done.output
    assert "Not a medical device" in done.output
    assert (tmp_path / "s.csv").stat().st_mode & 0o777 == 0o600


@pytest.mark.slow
def test_ten_thousand_files_take_no_more_memory_than_a_hundred(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "b.dpdt").write_bytes(data)
    files_in(tmp_path / "in", 100)
    for number, times in (("100", 1), ("10000", 100)):
        lines = [str(tmp_path / "in" / f"{k:05d}.png") for k in range(100)] * times
        (tmp_path / f"{number}.txt").write_text("\n".join(lines))
    code = (
        "import resource, sys; from dpdt.cli import main\n"
        "try:\n    main(sys.argv[1:])\nfinally:\n    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    peak = {}
    for number in ("100", "10000"):
        arguments = ["apply", str(tmp_path / "b.dpdt"), "--list", str(tmp_path / f"{number}.txt"), "--quiet"]
        arguments += ["--output", str(tmp_path / f"{number}.csv")]
        done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
        peak[number] = int(done.stdout.split()[-1])
        assert len(rows_of(tmp_path / f"{number}.csv")) == int(number)
    assert peak["10000"] - peak["100"] < 20_000  # kB: the list of names, and what allocators keep
