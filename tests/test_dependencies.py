"""The libraries that pyproject.toml asks for are those that dpdt imports."""

import ast
import sys
import tomllib
from importlib.metadata import distributions, packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

import dpdt

PACKAGE = Path(dpdt.__file__).parent
# pydicom finds its decoders by their entry points.
LOADED_BY_OTHERS = {"pylibjpeg", "pylibjpeg-libjpeg", "pylibjpeg-openjpeg"}


def imported() -> set[str]:
    """Libraries that are imported anywhere in dpdt, by the names under which they are installed."""
    modules: set[str] = set()
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                modules.update(alias.name.split(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                modules.add(node.module.split(".")[0])
    installed = packages_distributions()
    others = modules - sys.stdlib_module_names - {"dpdt"}
    return {canonicalize_name(min(installed[module], key=len)) for module in others}


def declared() -> set[str]:
    """What an installation of dpdt brings along, with the networks by name and ONNX."""
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = project["dependencies"] + extras["networks"] + extras["onnx"]
    return {canonicalize_name(Requirement(text).name) for text in wanted}


def test_what_is_imported_is_declared_and_what_is_declared_is_imported() -> None:
    assert imported() | LOADED_BY_OTHERS == declared()


@pytest.mark.parametrize("python", ["3.11.0", "3.11.2", "3.12.3", "3.13.5"])
def test_what_is_pinned_can_be_installed_with_the_pythons_of_debian_and_ubuntu(python: str) -> None:
    # The oldest that pyproject.toml admits, and those of Debian 12, Ubuntu 24.04 and Debian 13 (packages.debian.org,
    # packages.ubuntu.com). A library that needs 3.11.5 ended `make install` on Debian 12.
    pins = [line for line in (PACKAGE.parent / "constraints.txt").read_text().splitlines() if "==" in line]
    pinned = {canonicalize_name(pin.partition("==")[0]) for pin in pins}
    known = [each for each in distributions() if canonicalize_name(each.name) in pinned]
    assert len(known) > 100
    too_new = {
        each.name: needs
        for each in known
        if python not in SpecifierSet(needs := each.metadata.get("Requires-Python", ""))
    }
    assert not too_new
