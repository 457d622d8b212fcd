"""Finding an institution's raw files and reading their tables."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from dpdt.base.vocabulary import folded
from dpdt.cohort.hospitals.raw_cohort import FileNames
from dpdt.cohort.lists.rows import UNREADABLE, ListFile, opened
from dpdt.errors import CohortError, StudyError
from dpdt.study.domain_settings import DomainSettings

__all__ = ["RawFiles"]


class RawFiles:
    """An institution's raw files by logical name; the study file may give other names than the published ones."""

    def __init__(self, root: Path, published: FileNames, settings: DomainSettings) -> None:
        unknown = sorted(set(settings.files) - set(published))
        if unknown:
            raise StudyError(f"files: unknown name {unknown[0]!r}. Valid names: {', '.join(published)}.")
        if not root.is_dir():
            what = "a file, expected a folder" if root.is_file() else "no such folder"
            raise CohortError(f"{root}: {what}. Set `root` of the domain to the folder with the raw data.")
        self.root = root
        self._published = published
        self._given = settings.files
        self._read: dict[str, Path] = {}

    @property
    def read(self) -> dict[str, Path]:
        """Every file that was read so far, by its logical name."""
        return dict(self._read)

    def given(self, name: str) -> bool:
        """Whether the study file names this file or folder."""
        return name in self._given

    def names(self, name: str) -> tuple[str, ...]:
        """Paths relative to root at which a file may be, best first."""
        return (str(self._given[name]),) if name in self._given else self._published[name]

    def optional(self, name: str) -> Path | None:
        """Path of a file, compressed or not; None if there is none. A name given in the study file must exist."""
        for candidate in self.names(name):
            other = candidate.removesuffix(".gz") if candidate.endswith(".gz") else f"{candidate}.gz"
            for relative in (candidate, other):
                if (self.root / relative).is_file():
                    return self.root / relative
        if name in self._given:
            raise self._missing(name)
        return None

    def path(self, name: str) -> Path:
        """Path of a file, compressed or not.

        Raises:
            CohortError: There is none; the message says where it was looked for.
        """
        found = self.optional(name)
        if found is None:
            raise self._missing(name)
        return found

    def _missing(self, name: str) -> CohortError:
        inside = sorted(entry.name for entry in self.root.iterdir())
        found = ", ".join(inside[:8]) + (", …" if len(inside) > 8 else "") if inside else "nothing"
        return CohortError(
            f"{self.root}: no {' or '.join(self.names(name))} (plain or .gz); found {found}. "
            f'Correct `root`, or name the file: files = {{ {name} = "…" }}.'
        )

    def table(
        self, name: str, columns: Mapping[str, Sequence[str]], optional: Mapping[str, Sequence[str]] | None = None
    ) -> pd.DataFrame:
        """Read a CSV as text, missing cells as empty strings.

        Args:
            name: Logical name of the file.
            columns: Column name in the answer -> names it may have in the file (compared trimmed, without case).
            optional: The same for columns that may be missing; they are then missing in the answer, too.

        Returns:
            The wanted columns, trimmed; the index is the row's number from 0, which is the header's.

        Raises:
            CohortError: File or column missing, or not a CSV.
        """
        path = self.path(name)
        self._read[name] = path
        header: dict[str, list[str]] = {}
        for column in self.header(name):
            header.setdefault(folded(column), []).append(column)
        wanted: dict[str, str] = {}
        for column, names in [*columns.items(), *(optional or {}).items()]:
            found = next((header[folded(n)] for n in names if folded(n) in header), [])
            if len(found) > 1:
                raise CohortError(f"{path}: {len(found)} columns are named {found[0]!r}, expected one. Rename them.")
            if found:
                wanted[column] = found[0]
            elif column in columns:
                raise CohortError(
                    f"{path}: no column {' or '.join(repr(n) for n in names)}; found {', '.join(self.header(name))}. "
                    "Is this the published file?"
                )
        table = ListFile(path).read(sorted(set(wanted.values())))
        return pd.DataFrame({column: table[found].str.strip() for column, found in wanted.items()})

    def header(self, name: str) -> tuple[str, ...]:
        """Column names of a CSV, as written there."""
        return ListFile(self.path(name)).header()

    def lines(self, name: str) -> list[str]:
        """Read a text file of one name a line; empty lines are left out."""
        path = self.path(name)
        self._read[name] = path
        try:
            with io.TextIOWrapper(opened(path), encoding="utf-8-sig") as stream:
                return [line.strip() for line in stream if line.strip()]
        except (UnicodeDecodeError, *UNREADABLE) as err:
            raise CohortError(f"{path}: cannot be read as a list of names ({err}).") from err
