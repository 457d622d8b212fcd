"""The documentation: links lead somewhere, every page is in the navigation, and the commands work as they stand."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

import dpdt
from docs.reference import site_config, write_reference
from dpdt.cli import app
from dpdt.study.keys import all_keys

ROOT = Path(dpdt.__file__).parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md"))
GENERATED = ("cli.md", "study.md", "study.schema.json")
TEN_MINUTES = 600


def anchors(page: Path) -> set[str]:
    """Names that a heading can be linked by, as GitHub and the site make them."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda page: page.name)
def test_every_link_of_a_page_leads_to_a_file_and_a_heading(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    wrong = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("http://", "https://")) or target in GENERATED:
            continue
        name, _, anchor = target.partition("#")
        file = page.parent / name if name else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            wrong.append(target)
    assert wrong == []


def test_every_page_is_in_the_navigation(tmp_path: Path) -> None:
    for name in (*(page.name for page in PAGES), "cli.md", "study.md", "new.md"):
        (tmp_path / name).touch()
    config = site_config(ROOT / "mkdocs.yml", tmp_path)
    named = re.findall(r"[\w-]+\.md", str(config["nav"]))
    assert sorted(named) == sorted(page.name for page in tmp_path.iterdir())
    assert "new.md" in config["nav"][-1]["More"]


def test_the_reference_has_every_command_and_every_key(tmp_path: Path) -> None:
    write_reference(tmp_path)
    commands = (tmp_path / "cli.md").read_text()
    for command in app.registered_commands:
        name = command.name or (command.callback.__name__ if command.callback else "")
        assert f"## dpdt {name}\n" in commands
        assert f"Example: dpdt {name}" in commands
    keys = (tmp_path / "study.md").read_text()
    for key in all_keys():
        assert f"| `{key.short}` |" in keys
    assert (tmp_path / "study.schema.json").stat().st_size > 10_000


def run_blocks(page: str, folder: Path) -> float:
    """Run a page's `sh` blocks, one after another, in one shell that stops at the first failure; its seconds."""
    blocks = re.findall(r"^```sh\n(.*?)^```", (ROOT / "docs" / page).read_text(), flags=re.MULTILINE | re.DOTALL)
    assert blocks
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    begun = time.monotonic()
    variables = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"}
    command = ["bash", "-euo", "pipefail", "-c", "\n".join(blocks)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=variables)
    assert done.returncode == 0, done.stdout + done.stderr
    return time.monotonic() - begun


@pytest.mark.skipif("DPDT_REAL_DATA" not in os.environ, reason="needs DPDT_REAL_DATA, a sample of ChestX-ray14")
def test_the_first_study_on_real_images_is_done_in_ten_minutes(tmp_path: Path) -> None:
    assert run_blocks("first-study.md", tmp_path) < TEN_MINUTES
    assert "AUC" in (tmp_path / "my-study" / "report" / "index.html").read_text(encoding="utf-8")
    assert len(list((tmp_path / "my-study" / "runs").glob("*/privacy.json"))) == 2


@pytest.mark.slow
@pytest.mark.long
def test_ones_own_hospital_goes_the_whole_way_in_ten_minutes(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "own-hospital.md").read_text(encoding="utf-8")
    lists, studies = (re.search(rf"^```{kind}\n(.*?)^```", text, re.M | re.S) for kind in ("csv", "toml"))
    assert lists
    assert studies
    (tmp_path / "st-mary" / "png" / "a").mkdir(parents=True)
    (tmp_path / "st-mary" / "png" / "b").mkdir()
    (tmp_path / "st-mary" / "list.csv").write_text(lists[1])
    (tmp_path / "study.toml").write_text(studies[1])
    random = np.random.default_rng(0)
    for name in pd.read_csv(tmp_path / "st-mary" / "list.csv")["Filename"]:
        cv2.imwrite(str(tmp_path / "st-mary" / "png" / name), random.integers(0, 255, (40, 32), dtype=np.uint8))
    assert run_blocks("own-hospital.md", tmp_path) < TEN_MINUTES
    assert (tmp_path / "trial" / "report" / "index.html").exists()
