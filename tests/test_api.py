"""dpdt from Python: light to import, typed, the documentation's page runs, and so does the example notebook."""

import ast
import doctest
import importlib
import json
import os
import pkgutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import dpdt
from dpdt.errors import StudyError
from tests.fake_runs import FakeRuns

ROOT = Path(dpdt.__file__).parents[1]


def test_import_dpdt_stays_light_and_the_names_are_there() -> None:
    script = (
        "import sys, dpdt; heavy = [m for m in ('torch', 'pandas', 'numpy', 'pydantic') if m in sys.modules];"
        "print(heavy, callable(dpdt.train), callable(dpdt.evaluate), dpdt.nothing)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert "module 'dpdt' has no attribute 'nothing'" in done.stderr
    done = subprocess.run([sys.executable, "-c", script.replace(", dpdt.nothing", "")], capture_output=True, text=True)
    assert done.stdout == "[] True True\n"
    assert set(dpdt.__all__) <= set(dir(dpdt))


def test_the_package_says_what_type_checkers_need() -> None:
    tree = ast.parse((ROOT / "dpdt" / "__init__.pyi").read_text())
    imported = {a.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for a in node.names}
    assert set(dpdt.__all__) == imported


@pytest.mark.slow
def test_the_pages_python_runs_as_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DPDT_QUIET", "1")
    found = doctest.testfile(str(ROOT / "docs" / "api.md"), module_relative=False, optionflags=doctest.ELLIPSIS)
    assert (found.failed, found.attempted > 10) == (0, True)


def test_doctests_of_every_module_hold() -> None:
    attempted = 0
    for module in pkgutil.walk_packages(dpdt.__path__, "dpdt."):
        if module.name.endswith(("__main__", "_core")):
            continue
        found = doctest.testmod(importlib.import_module(module.name))
        assert found.failed == 0, module.name
        attempted += found.attempted
    assert attempted > 20


@pytest.mark.slow
def test_the_example_notebook_runs(tmp_path: Path) -> None:
    # In a process of its own: the notebook's libraries warn, and warnings are errors here.
    script = (
        "import sys, nbformat; from nbclient import NotebookClient;"
        "book = nbformat.read(sys.argv[1], as_version=4);"
        "NotebookClient(book, timeout=120, kernel_name='python3').execute();"
        "print(nbformat.writes(book))"
    )
    environment = {**os.environ, "DPDT_QUIET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", script, str(ROOT / "examples" / "compare.ipynb")],
        capture_output=True, text=True, cwd=tmp_path, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    ran, stored = (_outputs(text) for text in (done.stdout, (ROOT / "examples" / "compare.ipynb").read_text()))
    assert [set(one) for one in ran] == [set(one) for one in stored]  # what one reads without running it is complete
    assert ["image/png" in one for one in ran] == [False, True, False, True]  # both hospitals, the plot
    assert all(name in str(ran[2]["text/plain"]) for name in ("padchest", "uka"))


def _outputs(notebook: str) -> list[dict[str, object]]:
    """What the cells of a notebook show, by kind."""
    cells = json.loads(notebook)["cells"]
    return [one["data"] for cell in cells for one in cell.get("outputs", ()) if one.get("data")]


@pytest.mark.parametrize("predictions", [False, True])
def test_results_have_the_same_columns_before_any_test(fake_runs: Callable[..., FakeRuns], predictions: bool) -> None:
    made = fake_runs(("vindr", "uka"), "[inf]")
    before = dpdt.results(made.study, predictions=predictions)
    assert len(before) == 0
    assert list(before) == list(dpdt.results(made.all().study, predictions=predictions))


def test_what_is_asked_for_must_be_in_the_study(tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text('[domains.uka]\nroot = "."\n')
    study = dpdt.load_study(tmp_path)
    with pytest.raises(StudyError, match=r"chexpert: not in the study\. Its domains: uka"):
        dpdt.Cohort(study, "chexpert")
    with pytest.raises(StudyError, match=r"split: expected train, val or test, got 'valid'"):
        dpdt.Shards(study, "uka", "valid")
    with pytest.raises(
        StudyError, match=r"the study has no training \('uka', 3\.0, 0\)\. It has: uka, epsilon 1, seed 0;"
    ):
        dpdt.train(study, "uka", target_epsilon=3)
