"""Where the values of a study come from: lines of its file, a preset, `--set` on the command line."""

import functools
import math
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from dpdt.errors import StudyError
from dpdt.study.networks import NETWORKS

__all__ = ["PRESETS", "Source", "flat", "merge", "not_text", "open_guesses", "read_source"]

PRESETS: Final[dict[str, dict[str, Any]]] = {
    "paper": {
        "shards": {"size": 512, "recipe": "paper", "equalise": True},
        "model": {"name": "resnet9", "width": 64, "in_channels": 3},
        "train": {
            "num_epochs": 80,
            "expected_batch_size": 128,
            "learning_rate": 2e-4,
            "weight_decay": 0.0,
            "class_weights": "public",
        },
        "privacy": {"unit": "image", "delta": 6e-6, "max_grad_norm": 1.5, "target_epsilons": [1.0, 8.0, math.inf]},
        "evaluate": {"bootstrap_draws": 1000, "bootstrap_unit": "image"},
    },
    # 240 steps of an eighth of the units, at any hospital and target, and smaller steps where there is more noise: what
    # docs/recipes.md found to help. No number of it comes from private data; what was not measured is not in it.
    "strong": {
        "train": {"sample_rate": 0.125, "num_epochs": 30, "learning_rate": 4e-3, "full_learning_rate_at": 300.0},
    },
}
"""What `[study] preset = "…"` starts from; every key of the study file wins over it."""
BATCHES: Final = ("expected_batch_size", "sample_rate")
"""Two ways to say how large a batch is."""


@dataclass(frozen=True)
class Source:
    """The values of a study file before they are checked.

    Attributes:
        file: The study file, as the user named it.
        values: Tables and keys, the preset's below the file's below `--set`.
        text: Of the file.
        overridden: Dotted names that `--set` sets.
        preset: Name of the preset, if there is one.
    """

    file: Path
    values: dict[str, Any]
    text: str
    overridden: frozenset[str]
    preset: str | None

    @functools.cached_property
    def lines(self) -> dict[str, int]:
        """Line of each key that the file sets, by its dotted name."""
        return _lines(self.text)[0]

    @functools.cached_property
    def headers(self) -> dict[str, int]:
        """Line of each table's header, `[domains.own]`, by its dotted name."""
        return _lines(self.text)[1]

    def origin(self, key: str) -> str:
        """Where the value of a dotted key comes from: `--set`, `study.toml:12`, `preset paper`, `default`."""
        if self._at(key, self.overridden) or self._below(key, self.overridden):
            return "--set"
        line = self._at(key, self.lines) or self._below(key, self.lines)
        if line:
            return f"{self.file.name}:{self.lines[line]}"
        if key in self.headers:  # a table without keys
            return f"{self.file.name}:{self.headers[key]}"
        return f"preset {self.preset}" if self.preset and key in flat(PRESETS[self.preset]) else "default"

    def where(self, key: str) -> str:
        """How an error about a dotted key begins: `--set`, or the file with the line if it has one."""
        if self._at(key, self.overridden):
            return "--set"
        line = self._at(key, self.lines)
        number = self.lines[line] if line else self._nearest(key)
        return f"{self.file}:{number}" if number else str(self.file)

    def _nearest(self, key: str) -> int | None:
        """Line of a table: the first key or header in it, else the header of what it lies in."""
        places = {**self.headers, **self.lines}
        inside = [line for name, line in places.items() if f"{name}.".startswith(f"{key}.")]
        header = self._at(key, self.headers)
        return min(inside, default=self.headers[header] if header else None)

    @staticmethod
    def _below(key: str, names: Mapping[str, int] | frozenset[str]) -> str | None:
        """The first name inside a table with names that the user chooses, such as `files`."""
        return next((name for name in names if name.startswith(f"{key}.")), None)

    @staticmethod
    def _at(key: str, names: Mapping[str, int] | frozenset[str]) -> str | None:
        """The name itself, or what it lies in (an inline table, a list)."""
        parts = key.split(".")
        tried = (".".join(parts[:end]) for end in range(len(parts), 0, -1))
        return next((name for name in tried if name in names), None)


def read_source(file: str | Path, *, overrides: Sequence[str] = ()) -> Source:
    """Read a study file (or the `study.toml` of a folder) and put preset and overrides with it.

    Args:
        file: A TOML file or a folder.
        overrides: `key=value` each, as after `--set`.

    Raises:
        StudyError: The file is missing or not TOML, an override is not of that form, or the preset is unknown.
    """
    path = Path(file)
    if path.is_dir():
        path = path / "study.toml"
    try:
        text = path.read_text(encoding="utf-8-sig")  # Windows' editors write a byte order mark
    except FileNotFoundError as err:
        raise StudyError(
            f"{path}: no such study file. Expected a TOML file; `dpdt init` writes one, `dpdt demo` makes an example."
        ) from err
    except OSError as err:
        raise StudyError(
            f"{path}: cannot be read ({err.strerror}). Expected a TOML file; check its permissions."
        ) from err
    except UnicodeDecodeError as err:
        raise StudyError(not_text(path, err)) from err
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as err:
        raise StudyError(f"{path}: not valid TOML: {err}. {_toml_hint(str(err), text)}") from err
    over: dict[str, Any] = {}
    for override in overrides:
        over = merge(over, _override(override))
    for table in (values, over):
        if not isinstance(table.get("study", {}), dict):
            raise StudyError(f"{path}: study: expected a table `[study]`, got {table['study']!r}.")
    values = merge(_other_batches(values, over), over)
    if all(key in _train(values) for key in BATCHES):
        raise StudyError(f"{path}: train.{' and train.'.join(BATCHES)} are two ways to say one thing. Leave one out.")
    preset = values.get("study", {}).get("preset")
    known = preset if isinstance(preset, str) and preset in PRESETS else None  # another one is refused later
    if known:
        base, model = PRESETS[known], values.get("model")
        if isinstance(model, dict) and model.get("name") in NETWORKS:
            base = {**base, "model": {}}  # the paper's width is its ResNet9's
        values = merge(_other_batches(base, values), values)
    return Source(path, values, text, frozenset(flat(over)), known)


def _train(values: Mapping[str, Any]) -> dict[str, Any]:
    table = values.get("train")
    return table if isinstance(table, dict) else {}


def _other_batches(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Values without the size of batches where those above say it, in either way."""
    if not any(key in _train(above) for key in BATCHES) or not _train(below):
        return below
    return {**below, "train": {key: value for key, value in _train(below).items() if key not in BATCHES}}


def open_guesses(text: str) -> dict[int, str]:
    r"""Lines of `dpdt init --list` that nobody has confirmed yet: number -> the key, or what is asked.

    Such a line is a comment with `#?` in it.

    >>> open_guesses('[a]\n#b = 1  #? likely\nc = 2  #? sure\n')
    {2: 'b'}
    """
    found = {}
    for number, line in enumerate(text.split("\n"), start=1):
        if line.lstrip().startswith("#") and re.search(r"(?<=.)#\?", line):
            key = re.match(r"\s*#\s*([\w-]+) = ", line)
            found[number] = key[1] if key else line.lstrip("# ").partition("#?")[0].strip()
    return found


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Merge tables; values of `over` win."""
    merged = dict(base)
    for key, value in over.items():
        known = merged.get(key)
        merged[key] = merge(known, value) if isinstance(known, dict) and isinstance(value, dict) else value
    return merged


def flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables as one, under dotted names; lists stay whole.

    >>> flat({"train": {"seeds": [0], "device": "cpu"}})
    {'train.seeds': [0], 'train.device': 'cpu'}
    """
    found: dict[str, Any] = {}
    for key, value in table.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


def _override(text: str) -> dict[str, Any]:
    """One `key=value`; what is not TOML is taken as text, so that words need no quotes.

    >>> _override("train.device=cpu"), _override("train.num_epochs=5")
    ({'train': {'device': 'cpu'}}, {'train': {'num_epochs': 5}})
    """
    key, equals, value = text.partition("=")
    names = [name.strip() for name in key.split(".")]
    if not equals or len(names) < 2 or not all(re.fullmatch(r"[\w-]+", name) for name in names):
        raise StudyError(f"--set {text}: expected section.key=value, for example --set train.num_epochs=5.")
    try:
        parsed: Any = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value.strip()
    for name in reversed(names):
        parsed = {name: parsed}
    return parsed  # type: ignore[no-any-return]


def not_text(path: Path, err: UnicodeDecodeError) -> str:
    """What to say about a file that is not UTF-8: text of another encoding, or no text at all."""
    data, byte = err.object, err.object[err.start]
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return f"{path}: UTF-16 text. Expected UTF-8: save the file as UTF-8."
    if b"\0" in data:
        return f"{path}: not UTF-8 text (byte {err.start}). Expected a TOML file; is it the right one?"
    line = data.count(b"\n", 0, err.start) + 1
    character = f" ({chr(byte)!r} in Latin-1)" if chr(byte).isprintable() else ""
    return f"{path}:{line}: not UTF-8 text: byte 0x{byte:02x}{character}. Expected UTF-8: save the file as UTF-8."


def _toml_hint(message: str, text: str) -> str:
    """What to do about an error of the TOML parser."""
    at = re.search(r"at line (\d+)", message)
    line = text.split("\n")[int(at[1]) - 1].strip() if at else ""
    if message.startswith(("Cannot", "Duplicate")):
        what = f"the table {line}" if line.startswith("[") else f"the key {line.split('=')[0].strip()!r}"
        what = what if at and ("=" in line or line.startswith("[")) and "inline" not in message else "a key or table"
        return f"Here {what} occurs a second time: leave one."
    if "hex value" in message or message.startswith(("Unescaped", "Escaped")):
        return "A backslash needs single quotes: '…' instead of \"…\"."
    if re.search("[“”„‟‘’‚«»]", re.sub(r"\"[^\"]*\"|'[^']*'|#.*", "", line)):
        return 'Strings need straight quotes: "…".'
    if re.search(r"=\s*(True|False)\b", line):
        return "Write true or false in small letters."
    return "Strings need quotes, a key needs `= value`."


def _lines(text: str) -> tuple[dict[str, int], dict[str, int]]:
    """The lines on which the keys and the headers of a valid TOML text begin, found with the TOML parser itself.

    A statement is the fewest lines that are valid below the header of their table.
    """
    found: dict[str, int] = {}
    headers: dict[str, int] = {}
    header, statement, begun = "", "", 0
    for number, line in enumerate(text.splitlines(), start=1):
        if not statement and (not line.strip() or line.lstrip().startswith("#")):
            continue
        begun = begun if statement else number
        statement += line + "\n"
        is_header = statement.lstrip().startswith("[")
        try:
            parsed = tomllib.loads(statement if is_header else header + statement)
        except tomllib.TOMLDecodeError:
            continue  # in the middle of a value of several lines
        header = statement if is_header else header
        for key in flat(parsed):
            found.setdefault(key, begun)
        if is_header:
            headers.setdefault(".".join(_names(parsed)), begun)
        statement = ""
    return found, headers


def _names(table: Any) -> list[str]:
    """The names of tables in each other, each the only one: `{"a": {"b": {}}}` is a, b."""
    names = []
    while isinstance(table, dict) and table:
        name, table = next(iter(table.items()))
        names.append(name)
    return names
