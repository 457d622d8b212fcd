"""The libraries that pyproject.toml asks for are those that dpdt imports."""

import ast
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

from packaging.requirements import Requirement
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
