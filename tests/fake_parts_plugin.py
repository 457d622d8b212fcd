"""Studies whose stages are done by stand-ins (fake_parts), for the tests of submission."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import dpdt
from dpdt.study import Study, load_study

FAKE_PARTS = Path(__file__).parent / "fake_parts"
ROOT = Path(dpdt.__file__).parents[1]

SMALL_STUDY = """
[domains.a]
kind = "vindr"
root = "raw/a"
[domains.b]
kind = "uka"
root = "raw/b"
[domains.public]
kind = "mimic"
root = "raw/public"
[privacy]
target_epsilons = [1.0, inf]
"""


# What submit looks for before it sends anything; the stand-ins read none of it.
MIMIC = tuple(f"raw/public/mimic-cxr-2.0.0-{name}.csv.gz" for name in ("metadata", "split", "chexpert"))
LISTS = ("raw/a/train.csv", "raw/b/UKA_master_list.csv", *MIMIC)


@pytest.fixture
def fake_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand-ins for the stages' functions, here and in every process started from here."""
    path = [str(FAKE_PARTS), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path))
    namespace: dict[str, object] = {"__name__": "fake_parts"}
    source = (FAKE_PARTS / "sitecustomize.py").read_text().removesuffix("sys.modules.update(modules())\n")
    exec(compile(source, "fake_parts", "exec"), namespace)
    for name, module in namespace["modules"]().items():  # type: ignore[operator]
        monkeypatch.setitem(sys.modules, name, module)


@pytest.fixture
def make_fake_study(tmp_path: Path, fake_parts: None) -> Callable[..., Study]:
    """Make a study of two domains and a public one, two cells a domain; keywords go to behave.json."""

    def make(extra: str = "", **behave: object) -> Study:
        file = tmp_path / "study" / "study.toml"
        file.parent.mkdir(exist_ok=True)
        file.write_text(SMALL_STUDY + extra)
        for name in LISTS:
            (file.parent / name).parent.mkdir(parents=True, exist_ok=True)
            (file.parent / name).touch()
        (file.parent / "behave.json").write_text(json.dumps(behave))
        return load_study(file)

    return make
