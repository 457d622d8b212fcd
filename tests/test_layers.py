"""Imports go one way; three big libraries have one owner each."""

import ast
from pathlib import Path

import dpdt

PACKAGE = Path(dpdt.__file__).parent

# From the bottom up; a module may import from the layers below its own.
LAYERS = [
    {"errors", "vocabulary", "_core"},
    {"files", "paths", "console", "stop"},
    {"domain_settings", "study_source"},
    {"study", "checkpoint", "ranks", "study_help"},
    {"study_keys", "custom_model", "data_hashes"},
    {"study_show", "starter"},
    {"domains", "metrics", "model", "privacy", "runs"},
    {"counts", "splits", "model_check", "cohort_checks", "statements"},
    {"cohort"},
    {"shards", "scratch"},
    {"dataset"},
    {"predict"},
    {"training"},
    {"train", "evaluate"},
    {"results"},
    {"membership"},
    {"audit"},
    {"report", "tracking"},
    {"synth"},
    {"frozen", "stamps", "attempts"},
    {"stages", "planning"},
    {"jobs", "progress"},
    {"status"},
    {"logs"},
    {"submit"},
    {"demo", "machine"},
    {"checkup", "api"},
    {"cli"},
    {"reference"},
    {"__main__"},
]
OWNERS = {"mlflow": {"tracking"}, "submitit": {"submit"}, "opacus": {"privacy"}}


def imports(file: Path) -> set[str]:
    """Full names of all modules that a file imports, also inside functions."""
    if file.name == "__main__.py" and file.parent != PACKAGE:
        return set()  # `python -m dpdt.submit` starts the command line, which lies above
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def modules() -> dict[str, set[str]]:
    """Imports by the name of the top module or sub-package below dpdt."""
    found: dict[str, set[str]] = {}
    for file in PACKAGE.rglob("*.py"):
        top = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if top != "__init__":
            found.setdefault(top, set()).update(imports(file))
    return found


def test_every_module_has_a_layer() -> None:
    assert set(modules()) <= set().union(*LAYERS)


def test_imports_go_one_way() -> None:
    height = {name: number for number, layer in enumerate(LAYERS) for name in layer}
    wrong = []
    for name, imported in modules().items():
        for other in imported:
            parts = other.split(".")
            known = parts[0] == "dpdt" and len(parts) > 1 and parts[1] in height and parts[1] != name
            if known and height[parts[1]] >= height[name]:
                wrong.append(f"{name} imports {parts[1]}")
    assert wrong == []


def test_big_libraries_have_one_owner() -> None:
    wrong = [
        f"{name} imports {library}"
        for name, imported in modules().items()
        for library, owners in OWNERS.items()
        if name not in owners and any(i == library or i.startswith(f"{library}.") for i in imported)
    ]
    assert wrong == []
