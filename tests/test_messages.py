"""The common mistakes of a user, walked through the command line: the whole message of each is in messages.txt.

A message says which input, what was found, what was expected and what to do. To write all of them again after a change:
`DPDT_WRITE_MESSAGES=1 pytest tests/test_messages.py`, then read the difference.
"""

import gzip
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from dpdt.cli import main
from dpdt.jobs.resources import PROFILES
from dpdt.study import Study
from dpdt.study.settings import TrainSettings

RECORDED = Path(__file__).parent / "messages.txt"
STUDY = """\
[domains.own]
kind = "table"
root = "data"
[domains.own.table]
file = "list.csv"
image = "image"
patient = "patient"
sex = "sex"
[domains.own.table.labels]
cardiomegaly = { column = "heart" }
healthy = { column = "healthy" }
[shards]
size = 32
[model]
width = 8
[train]
num_epochs = 2
expected_batch_size = 4
device = "cpu"
[privacy]
target_epsilons = [8.0, inf]
delta = 1e-2
"""

LABELS_TABLE = STUDY[STUDY.index("[domains.own.table.labels]") : STUDY.index("[shards]")]
OTHER = 'root = "data"\nkind = "chexpert"\n'
TWICE = ("[shards]", STUDY[: STUDY.index("[shards]")].replace("domains.own", "domains.again") + "[shards]")

# name of the case: (changes of the study file as old → new, command)
CASES: dict[str, tuple[tuple[str, str], list[str]]] = {
    # ---- the command itself ----
    "no such command": (("", ""), ["trian", "study.toml"]),
    "no study named": (("", ""), ["cohort"]),
    "no such option": (("", ""), ["train", "study.toml", "--espilon", "1"]),
    "an option without its value": (("", ""), ["train", "study.toml", "--domain"]),
    "text for a number": (("", ""), ["train", "study.toml", "--target-epsilon", "eight"]),
    "two studies": (("", ""), ["cohort", "study.toml", "other.toml"]),
    "no such study": (("", ""), ["cohort", "studdy.toml"]),
    "a folder without a study": (("", ""), ["cohort", "data"]),
    "an image for a study": (("", ""), ["cohort", "data/0.png"]),
    "a domain that is not there": (("", ""), ["cohort", "study.toml", "--domain", "chexpert"]),
    "an epsilon that is not there": (("", ""), ["train", "study.toml", "--target-epsilon", "2"]),
    "a seed that is not there": (("", ""), ["train", "study.toml", "--seed", "7"]),
    "a part above the parts": (("", ""), ["shards", "study.toml", "--task-index", "4", "--num-tasks", "4"]),
    "an override without a value": (("", ""), ["train", "study.toml", "--set", "train.num_epochs"]),
    "an override of no key": (("", ""), ["show", "study.toml", "--set", "train.epochs=5"]),
    "an override of the wrong type": (("", ""), ["show", "study.toml", "--set", "train.num_epochs=five"]),
    "an override of a list without brackets": (
        ("", ""),
        ["show", "study.toml", "--set", "privacy.target_epsilons=1,8"],
    ),
    "an unknown stage": (("", ""), ["submit", "study.toml", "--stages", "training"]),
    "an unknown cluster": (("", ""), ["submit", "study.toml", "--cluster", "pbs"]),
    "no wait on this machine": (("", ""), ["submit", "study.toml", "--no-wait"]),
    "an unknown preset": (("", ""), ["init", "new", "--preset", "fast"]),
    "init over a study": (("", ""), ["init", "."]),
    "init with half a root": (("", ""), ["init", "new", "--root", "chexpert"]),
    "plan with a wrong size": (("", ""), ["plan", "study.toml", "--size", "own=a lot"]),
    "epsilon without noise": (
        ("", ""),
        ["epsilon", "--noise-multiplier", "-1", "--sample-rate", "0.1", "--num-steps", "9", "--delta", "1e-5"],
    ),
    "a sample rate of a batch size": (
        ("", ""),
        ["epsilon", "--noise-multiplier", "1", "--sample-rate", "64", "--num-steps", "9", "--delta", "1e-5"],
    ),
    "a target of nothing": (
        ("", ""),
        ["calibrate", "--target-epsilon", "0", "--sample-rate", "0.1", "--num-steps", "9", "--delta", "1e-5"],
    ),
    "report of nothing": (("", ""), ["report"]),
    "report of a missing table": (("", ""), ["report", "--from-csv", "auc.csv"]),
    "report of an empty table": (("", ""), ["report", "--from-csv", "auc.csv"]),
    "report of a header": (("", ""), ["report", "--from-csv", "auc.csv"]),
    "report of a table with semicolons": (("", ""), ["report", "--from-csv", "auc.csv"]),
    "report of a table with a blank": (("", ""), ["report", "--from-csv", "auc.csv"]),
    "report of a misspelt label": (("", ""), ["report", "--from-csv", "auc.csv"]),
    "report of a folder": (("", ""), ["report", "--from-csv", "data"]),
    "doctor of no cluster": (("", ""), ["doctor", "--cluster"]),
    # ---- the study file ----
    "not TOML": (("[shards]", "[shards"), ["show", "study.toml"]),
    "a value without quotes": (('root = "data"', "root = data"), ["show", "study.toml"]),
    "a key twice": (("num_epochs = 2", "num_epochs = 2\nnum_epochs = 3"), ["show", "study.toml"]),
    "curly quotes": (('root = "data"', "root = “data”"), ["show", "study.toml"]),
    "a backslash": (('root = "data"', r'root = "C:\Users\me"'), ["show", "study.toml"]),
    "a number for a folder": (('root = "data"', "root = 5"), ["show", "study.toml"]),
    "a domain without its table": (("[domains.own]", '[domains]\nb = "data"\n[domains.own]'), ["show", "study.toml"]),
    "a truth value in quotes": (("size = 32", 'equalise = "no"'), ["show", "study.toml"]),
    "an empty list": (("[8.0, inf]", "[]"), ["show", "study.toml"]),
    "an empty study": ((STUDY, ""), ["report", "study.toml"]),
    "an unknown section": (("[shards]", "[shard]"), ["show", "study.toml"]),
    "an unknown key": (("num_epochs", "epochs"), ["show", "study.toml"]),
    "a number in quotes": (("num_epochs = 2", 'num_epochs = "2"'), ["show", "study.toml"]),
    "a number out of range": (("size = 32", "size = 4"), ["show", "study.toml"]),
    "a fraction for a whole number": (("size = 32", "size = 32.5"), ["show", "study.toml"]),
    "a word that is not offered": (("size = 32", 'recipe = "bicubic"'), ["show", "study.toml"]),
    "delta of one": (("delta = 1e-2", "delta = 1.0"), ["show", "study.toml"]),
    "an epsilon of zero": (("[8.0, inf]", "[0.0, inf]"), ["show", "study.toml"]),
    "an epsilon twice": (("[8.0, inf]", "[8.0, 8.0]"), ["show", "study.toml"]),
    "one number for a list": (("[8.0, inf]", "8.0"), ["show", "study.toml"]),
    "a domain of no kind": (("kind", "#kind"), ["show", "study.toml"]),
    "a train domain that is not there": (("[train]", '[train]\ndomains = ["uka"]'), ["show", "study.toml"]),
    "three class weights": (("[train]", "[train]\nclass_weights = [1, 2, 3]"), ["show", "study.toml"]),
    "a line break in a folder": (('root = "data"', r'root = "C:\new"'), ["show", "study.toml"]),
    "a tab in a list's path": (('"list.csv"', r'"my\table.csv"'), ["show", "study.toml"]),
    "the home of no user": (('root = "data"', 'root = "~no_such_user/data"'), ["show", "study.toml"]),
    "a misspelt label": (("cardiomegaly =", "cardiomegally ="), ["show", "study.toml"]),
    "a domain with a blank": (("[domains.own]", f'[domains."my own"]\n{OTHER}[domains.own]'), ["show", "study.toml"]),
    "no labels": ((LABELS_TABLE, ""), ["show", "study.toml"]),
    "an unset variable": (('root = "data"', 'root = "$NO_SUCH_FOLDER"'), ["show", "study.toml"]),
    "an unknown network": (("width = 8", 'name = "resnet18"'), ["show", "study.toml"]),
    "a network that is nowhere": (("width = 8", 'name = "nets:make"'), ["plan", "study.toml"]),
    "an unknown cluster profile": (("[train]", '[cluster]\nprofile = "site"\n[train]'), ["submit", "study.toml"]),
    # ---- the data ----
    "no such folder": (('root = "data"', 'root = "dada"'), ["cohort", "study.toml"]),
    "no such list": (('file = "list.csv"', 'file = "lst.csv"'), ["cohort", "study.toml"]),
    "no such column": (('patient = "patient"', 'patient = "MRN"'), ["cohort", "study.toml"]),
    "a cell that is not explained": (('{ column = "heart" }', '{ column = "sex" }'), ["cohort", "study.toml"]),
    "a file for a folder": (('root = "data"', 'root = "data/list.csv"'), ["cohort", "study.toml"]),
    "a folder for a list": (('file = "list.csv"', 'file = "."'), ["cohort", "study.toml"]),
    "a column in other letters": (('patient = "patient"', 'patient = "Patient "'), ["cohort", "study.toml"]),
    "semicolons": (("", ""), ["cohort", "study.toml"]),
    "tabs": (("", ""), ["cohort", "study.toml"]),
    "Latin-1": (("", ""), ["cohort", "study.toml"]),
    "UTF-16 without its mark": (
        ("[domains.own.table]", '[domains.own.table]\nencoding = "utf-16"'),
        ["cohort", "study.toml"],
    ),
    "UTF-16 called UTF-8": (("", ""), ["cohort", "study.toml"]),
    "a quotation mark left open": (("", ""), ["cohort", "study.toml"]),
    "guesses that nobody confirmed": (
        ('image = "image"', '#image = "image"  #? sure: its name\n#age = "age"  #? likely: its name'),
        ["cohort", "study.toml"],
    ),
    "an encoding that is none": (
        ("[domains.own.table]", '[domains.own.table]\nencoding = "utf9"'),
        ["cohort", "study.toml"],
    ),
    "an empty list file": (("", ""), ["cohort", "study.toml"]),
    "a header alone": (("", ""), ["cohort", "study.toml"]),
    "a workbook": (('"list.csv"', '"list.xlsx"'), ["cohort", "study.toml"]),
    "a compressed list under another name": (("", ""), ["cohort", "study.toml"]),
    "a row twice": (("", ""), ["cohort", "study.toml"]),
    "patients without a name": (("", ""), ["cohort", "study.toml"]),
    "patients that a spreadsheet rounded": (("", ""), ["cohort", "study.toml"]),
    "a blank patient": (("", ""), ["cohort", "study.toml"]),
    "one patient for all": (("", ""), ["cohort", "study.toml"]),
    "no label in any row": (("", ""), ["cohort", "study.toml"]),
    "labels in words": (("", ""), ["cohort", "study.toml"]),
    "a text without quotation marks": (("", ""), ["cohort", "study.toml"]),
    "images that are elsewhere": (
        ('image = "image"', 'image = "image"\nimages = "pngs"'),
        ["cohort", "study.toml", "--quiet"],
    ),
    "ages that are none": (('sex = "sex"', 'age = "sex"'), ["cohort", "study.toml"]),
    "data that is not there, sent": (('root = "data"', 'root = "dada"'), ["submit", "study.toml"]),
    "two domains of one list": (TWICE, ["cohort", "study.toml", "--quiet"]),
    "a private list as the public one": (
        (TWICE[0], TWICE[1].replace('"data"', '"copy"\nrole = "public"')),
        ["cohort", "study.toml", "--quiet"],
    ),
    "another institution's folder": (
        ("[shards]", '[domains.chexpert]\nroot = "data"\n[shards]'),
        ["cohort", "study.toml", "--domain", "chexpert"],
    ),
    # ---- the order of the stages ----
    "a file where a folder is needed": (("", ""), ["cohort", "study.toml"]),
    "shards before the cohort": (("", ""), ["shards", "study.toml"]),
    "a training before the shards": (("", ""), ["train", "study.toml"]),
    "an evaluation before the training": (("", ""), ["evaluate", "study.toml"]),
    "a report of an empty study": (("", ""), ["report", "study.toml"]),
    "a pretraining without a public domain": (("", ""), ["pretrain", "study.toml"]),
    "verify before the shards": (("", ""), ["verify", "study.toml"]),
    "logs of an unknown task": (("", ""), ["logs", "study.toml", "training"]),
    "cancel of an unknown task": (("", ""), ["cancel", "study.toml", "training"]),
    # ---- a cohort and shards are there ----
    "images that are missing": (
        ("[domains.own.table]", 'missing_images = "later"\n[domains.own.table]\nsuffix = ".jpg"'),
        ["+cohort", "shards", "study.toml"],
    ),
    "shards of other settings": (("size = 32", "size = 16"), ["+shards", "train", "study.toml"]),
    "a batch above the patients": (
        ("expected_batch_size = 4", "expected_batch_size = 64"),
        ["+shards", "train", "study.toml", "--target-epsilon", "8"],
    ),
    "a delta too large to protect a patient": (
        ("1e-2", "0.2"),
        ["+shards", "train", "study.toml", "--target-epsilon", "8"],
    ),
    "a GPU that is not there": (('device = "cpu"', 'device = "cuda"'), ["+shards", "train", "study.toml"]),
    "weights that are not there": (
        ("width = 8", 'width = 8\ninit_weights = "w.pt"'),
        ["+shards", "train", "study.toml"],
    ),
    "weights that are none": (
        ("width = 8", 'width = 8\ninit_weights = "data/0.png"'),
        ["+shards", "train", "study.toml"],
    ),
    "public class weights without public data, planned": (
        ("[train]", '[train]\nclass_weights = "public"'),
        ["plan", "study.toml"],
    ),
    "public class weights without public data, sent": (
        ("[train]", '[train]\nclass_weights = "public"'),
        ["submit", "study.toml", "--dry-run"],
    ),
    "public class weights without public data": (
        ("[train]", '[train]\nclass_weights = "public"'),
        ["+shards", "train", "study.toml"],
    ),
}


def cells(old: str, new: str) -> Callable[[bytes], bytes]:
    """What puts one text for another in the list, a regular expression."""
    return lambda data: re.sub(old, new, data.decode(), flags=re.MULTILINE).encode()


# name of the case: what happens to the list before
LISTS: dict[str, Callable[[bytes], bytes]] = {
    "semicolons": cells(",", ";"),
    "tabs": cells(",", "\t"),
    "Latin-1": lambda data: data.decode().replace("p7,", "Bär,").encode("latin-1"),
    "UTF-16 without its mark": lambda data: data.decode().encode("utf-16-le"),
    "UTF-16 called UTF-8": lambda data: data.decode().encode("utf-16-le"),
    "a quotation mark left open": lambda data: data.replace(b"p7,", b'"p7,'),
    "an empty list file": lambda data: b"",
    "a header alone": lambda data: data[: data.index(b"\n") + 1],
    "a workbook": lambda data: b"PK\x03\x04\x14\x00\xff\xfe",
    "a compressed list under another name": gzip.compress,
    "a row twice": cells("^4.png", "3.png"),
    "patients without a name": cells("p1[0-4],", "NULL,"),
    "patients that a spreadsheet rounded": cells("p1[0-4],", "1.23457E+12,"),
    "a blank patient": cells("p12,", " ,"),
    "one patient for all": cells("p[0-9]+", "p1"),
    "no label in any row": cells("[01],[01]$", ","),
    "labels in words": cells("0,1$", "no,1"),
    "a text without quotation marks": cells("p12,", "Miller, Ann,"),
}

AUCS = """target_epsilon,label,subgroup,train_domain,test_domain,auc
8,healthy,all,a,b,0.8
8,pneumonia,all,a,b,0.7
"""
# name of the case: another file beside the study file, and what is in it
FILES = {
    "report of an empty table": ("auc.csv", ""),
    "report of a header": ("auc.csv", AUCS[: AUCS.index("\n") + 1]),
    "report of a table with semicolons": ("auc.csv", AUCS.replace(",", ";")),
    "report of a table with a blank": ("auc.csv", AUCS.replace("8,pneumonia", ",pneumonia")),
    "report of a misspelt label": ("auc.csv", AUCS.replace("pneumonia", "pneumonja")),
    "a file where a folder is needed": ("cohort", "a file"),
}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hospital of 40 images and its study, with cohort and shards."""
    folder = tmp_path_factory.mktemp("messages")
    (folder / "data").mkdir()
    random = np.random.default_rng(0)
    rows = ["image,patient,sex,heart,healthy"]
    for number in range(40):
        cv2.imwrite(str(folder / "data" / f"{number}.png"), random.integers(0, 255, (40, 40), dtype=np.uint8))
        rows.append(f"{number}.png,p{number},{'FM'[number % 2]},{number % 2},{(number + 1) % 2}")
    (folder / "data" / "list.csv").write_text("\n".join(rows) + "\n")
    (folder / "study.toml").write_text(STUDY)
    for stage in ("cohort", "shards"):
        with pytest.raises(SystemExit) as end:
            main([stage, str(folder / "study.toml"), "--quiet"])
        assert end.value.code == 0
    return folder


@pytest.fixture
def folder(prepared: Path, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The study of one case, in the present folder, so that messages name short paths."""
    (old, new), command = CASES[request.node.callspec.params["case"]]
    here = tmp_path / "here"
    here.mkdir()
    shutil.copytree(prepared / "data", here / "data")
    if change := LISTS.get(request.node.callspec.params["case"]):
        changed = change((here / "data" / "list.csv").read_bytes())
        (here / "data" / ("list.xlsx" if changed.startswith(b"PK") else "list.csv")).write_bytes(changed)
    if other := FILES.get(request.node.callspec.params["case"]):
        (here / other[0]).write_text(other[1])
    if request.node.callspec.params["case"] == "a private list as the public one":
        shutil.copytree(here / "data", here / "copy")
    if command[0] == "+shards":
        for name in ("cohort", "shards"):
            shutil.copytree(prepared / name, here / name)
    assert old in STUDY
    (here / "study.toml").write_text(STUDY.replace(old, new, 1) if old else STUDY, encoding="utf-8")
    monkeypatch.chdir(here)
    monkeypatch.delenv("DPDT_VERBOSE", raising=False)
    monkeypatch.delenv("DPDT_QUIET", raising=False)
    monkeypatch.setenv("COLUMNS", "100")
    return here


def said(command: list[str], folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """What a command says on stderr, and how it ends; the folder's own name is HERE."""
    arguments = [part for part in command if not part.startswith("+")]
    if command[0] == "+cohort":
        with pytest.raises(SystemExit):
            main(["cohort", "study.toml"])
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        main(arguments)
    printed = capsys.readouterr().err.replace(str(folder), "HERE").replace(str(PROFILES), "PROFILES")
    printed = re.sub(r"(seed\d+)-[0-9a-f]{8}", r"\1-HASH", printed)  # changes with every new setting
    unmarked = "'utf-16' codec can't decode bytes in position 0-1: Stream does not"  # from Python 3.13 on
    printed = printed.replace(unmarked, "UTF-16 stream does not")
    for name, section in (("train", TrainSettings), ("the study", Study)):
        keys = ", ".join(key for key in section.model_fields if key != "file")
        printed = printed.replace(f"Valid keys: {keys}.", f"Valid keys: (those of {name}).")
    return f"$ dpdt {' '.join(arguments)}\n{printed.rstrip()}\nexit {end.value.code}\n"


def recorded() -> dict[str, str]:
    """The messages by the name of the case."""
    text = RECORDED.read_text(encoding="utf-8") if RECORDED.exists() else ""
    parts = (part.split("\n", 1) for part in text.split("### ")[1:])
    return {name: message.rstrip() + "\n" for name, message in parts}


@pytest.mark.parametrize("case", CASES)
def test_a_mistake_is_answered_as_recorded(case: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = said(CASES[case][1], folder, capsys)
    if os.environ.get("DPDT_WRITE_MESSAGES"):
        known = {**recorded(), case: found}
        text = "\n".join(f"### {name}\n{known[name]}" for name in CASES if name in known)
        RECORDED.write_text(text, encoding="utf-8")
    assert "Traceback" not in found
    assert found == recorded()[case]


def test_forty_and_more_mistakes_are_recorded_and_no_other() -> None:
    assert set(recorded()) == set(CASES)
    assert len(CASES) > 40


@pytest.mark.parametrize("case", ["no such list"])
def test_verbose_adds_the_traceback(case: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([*CASES[case][1], "--verbose"])
    assert end.value.code == 1
    printed = capsys.readouterr().err
    assert printed.startswith("Traceback (most recent call last):")
    assert printed.splitlines()[-1].startswith("error: ")
