"""The rooms of the package stand on one another in one order, the data's way; three big libraries have one owner each.

Every import counts: those inside functions, and those for type checkers alone.
"""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import dpdt

PACKAGE = Path(dpdt.__file__).parent

# From the ground up. A room imports from itself and from rooms before it.
ROOMS = (
    "errors",
    "base",
    "study",
    "cohort",
    "shards",
    "runs",
    "privacy",
    "training",
    "bundle",
    "evaluation",
    "report",
    "tracking",
    "jobs",
    "api",
    "demo",
    "cli",
    "submit",
)
# No room: C++, and what Python itself asks for. `dpdt` alone is the package's face.
DOORS = ("_core", "__init__", "__main__")
OWNERS = {"mlflow": "tracking", "submitit": "jobs", "opacus": "privacy"}
MOST_FLOORS = 13  # `bundle` stands between training and evaluation, which test models of other hospitals


def imports(source: str, known: set[str]) -> set[str]:
    """Modules that a source imports anywhere: those of `known` by their own name, others by that of their library."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                found.add(full if full in known else node.module)
    return {name if name in known else name.split(".")[0] for name in found}


def house(package: Path = PACKAGE) -> dict[str, set[str]]:
    """What each module of the package imports."""
    files = {_name(file, package): file for file in package.rglob("*.py")}
    known = {*files, "dpdt._core"}
    return {name: imports(file.read_text(), known) for name, file in files.items()}


def upward(modules: dict[str, set[str]]) -> list[str]:
    """Imports of a room that stands above."""
    return [
        f"{name} imports {other}"
        for name, imported in sorted(modules.items())
        for other in sorted(imported)
        if other.startswith("dpdt.") and _height(other) > _height(name)
    ]


def floors(modules: dict[str, set[str]]) -> int:
    """How many rooms stand on each other where most do: a room stands above all that it imports.

    Raises:
        CycleError: Rooms stand on each other in a circle.
    """
    below: dict[str, set[str]] = {room: set() for room in ROOMS}
    for name, imported in modules.items():
        if _room(name) in below:
            below[_room(name)] |= {_room(other) for other in imported if other.startswith("dpdt.")} & set(ROOMS)
    for room, others in below.items():
        others.discard(room)
    floor: dict[str, int] = {}
    for room in TopologicalSorter(below).static_order():
        floor[room] = 1 + max((floor[other] for other in below[room]), default=0)
    return max(floor.values())


def circles(modules: dict[str, set[str]]) -> list[str]:
    """The modules of a circle of imports, if there is one; faces of packages count as what they hand on."""
    try:
        list(TopologicalSorter(modules).static_order())
    except CycleError as err:
        return list(err.args[1])
    return []


def _name(file: Path, package: Path) -> str:
    return ".".join(file.relative_to(package.parent).with_suffix("").parts).removesuffix(".__init__")


def _room(module: str) -> str:
    return [*module.split("."), "__init__"][1]


def _height(module: str) -> int:
    room = _room(module)
    if room == "_core":
        return -1
    return ROOMS.index(room) if room in ROOMS else len(ROOMS)


def test_every_entry_of_the_package_is_a_room() -> None:
    entries = {path.name.split(".")[0] for path in PACKAGE.iterdir() if path.suffix in ("", ".py")} - {"__pycache__"}
    assert {entry for entry in entries if entry not in DOORS} == set(ROOMS)
    assert len(ROOMS) <= 17


def test_imports_go_one_way() -> None:
    assert upward(house()) == []


def test_a_late_import_of_a_higher_room_is_found(tmp_path: Path) -> None:
    low = tmp_path / "dpdt" / "base" / "files.py"
    low.parent.mkdir(parents=True)
    low.write_text("def late():\n    from dpdt.jobs.status import study_status\n")
    (tmp_path / "dpdt" / "jobs").mkdir()
    (tmp_path / "dpdt" / "jobs" / "status.py").write_text("")
    assert upward(house(tmp_path / "dpdt")) == ["dpdt.base.files imports dpdt.jobs.status"]


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert circles(house()) == []
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}}) != []


def test_the_house_has_few_floors() -> None:
    assert floors(house()) <= MOST_FLOORS


def test_big_libraries_have_one_owner() -> None:
    wrong = [
        f"{name} imports {library}"
        for name, imported in house().items()
        for library, owner in OWNERS.items()
        if library in imported and _room(name) != owner
    ]
    assert wrong == []
