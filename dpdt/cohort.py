"""Who is in a study: one table a domain, from the raw metadata, with a split that no patient crosses.

Rules, each counted in `cohort/<domain>.json` and `cohort/summary.csv`:

- Official splits are kept. Where none exists a patient goes to `test` if a salted hash of the patient id falls below
  `test_fraction`; `val` is carved out of train in the same way. A patient's place depends on the id and the study's
  seed alone, so files that are added later move nobody.
- Healthy contradicting a finding: the finding wins, `healthy` becomes 0.
- An image without a single label is left out.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from dpdt.console import show_table
from dpdt.domains import RAW_COLUMNS, RawCohort, reader
from dpdt.errors import CohortError, StudyError
from dpdt.files import atomic_path, exclusive_lock, read_json, sha256_file, write_json
from dpdt.study import Study
from dpdt.vocabulary import LABELS, SEXES, SPLITS, age_group

__all__ = [
    "COLUMNS",
    "SYNTHETIC_MARKER",
    "CohortSummary",
    "build_cohort",
    "cohort_done",
    "patient_fraction",
    "read_cohort",
    "read_record",
]

COLUMNS: Final = ("image_id", "path", "domain", *RAW_COLUMNS[2:])
SUMMARY_COLUMNS: Final = ("domain", "split", "what", "value", "images", "patients")
SYNTHETIC_MARKER: Final = "SYNTHETIC.txt"
"""A raw folder with this file holds drawn data; everything made from it is marked."""

FINDINGS: Final = tuple(label for label in LABELS if label != "healthy")


@dataclass(frozen=True)
class CohortSummary:
    """What a domain's cohort holds.

    Attributes:
        domain: Name of the domain.
        rows_read: Rows of the raw table.
        excluded: Reason -> rows.
        images: Images in the cohort.
        patients: Patients in the cohort.
        splits: Split -> images.
        synthetic: Whether the data is drawn.
        built: False if the cohort was there already.
    """

    domain: str
    rows_read: int
    excluded: dict[str, int]
    images: int
    patients: int
    splits: dict[str, int]
    synthetic: bool
    built: bool

    def __str__(self) -> str:
        """One line for people."""
        splits = ", ".join(f"{name} {count}" for name, count in self.splits.items())
        made = "" if self.built else ", done before"
        return f"cohort {self.domain}: {self.images} images of {self.patients} patients ({splits}){made}"


def build_cohort(study: Study, domain: str) -> CohortSummary:
    """Read a domain's raw metadata, split it, check it and write it; quick where that is done.

    Args:
        study: The study.
        domain: One of its domains.

    Returns:
        The counts; they are also printed as a table when the cohort is built.

    Raises:
        StudyError: The domain, or a name in its `files`, is unknown.
        CohortError: The raw metadata is not as published, a patient is in two splits, an image_id occurs twice, or a
            cohort of other settings is there.
    """
    if domain not in study.domains:
        raise StudyError(f"no [domains.{domain}] in {study.file}. Known: {', '.join(study.domains) or 'none'}.")
    paths = study.paths
    if cohort_done(study, domain):
        return _summary(read_record(study, domain), built=False)
    root = study.root(domain)
    try:
        raw = reader(study.kind(domain)).read(root, study.domains[domain])
    except StudyError as err:
        raise StudyError(f"domains.{domain}.{err}") from err
    frame, contradictions = _resolve_healthy(raw.frame)
    unlabelled = frame[list(LABELS)].isna().all(axis=1)
    exclusions = pd.concat([raw.exclusions, frame[unlabelled][["image_id", "view"]].assign(reason="no known label")])
    frame = _split(frame[~unlabelled], study, domain)
    _check(frame, domain)
    table = _table(frame, domain)
    rows = _count(table, exclusions, {**raw.counts, "healthy with a finding, set to 0": contradictions})
    record = _record(study, domain, table, raw, rows)
    with atomic_path(paths.cohort_table(domain)) as temporary:
        table.to_parquet(temporary, index=False)
    with atomic_path(paths.cohort_exclusions(domain)) as temporary:
        exclusions.to_csv(temporary, index=False)
    write_json(paths.cohort_record(domain), record)
    _write_summary(study)
    _show(record)
    return _summary(record, built=True)


def cohort_done(study: Study, domain: str) -> bool:
    """Whether the domain's cohort is complete.

    Raises:
        CohortError: It was built with other settings.
    """
    path = study.paths.cohort_record(domain)
    if not path.is_file():
        return False
    if read_json(path).get("fingerprint") != study.cohort_fingerprint(domain):
        raise CohortError(
            f"{path}: this cohort was built with other settings of [domains.{domain}] or another seed. "
            "Remove the file to build it anew; shards and runs made from it stay as they are."
        )
    return study.paths.cohort_table(domain).is_file() and study.paths.cohort_exclusions(domain).is_file()


def read_cohort(study: Study, domain: str) -> pd.DataFrame:
    """The cohort table: one row an image, sorted by image_id, columns COLUMNS.

    Raises:
        CohortError: It is not built, or with other settings.
    """
    _require(study, domain)
    return pd.read_parquet(study.paths.cohort_table(domain))


def read_record(study: Study, domain: str) -> dict[str, Any]:
    """Settings, counts and hashes of the cohort.

    Raises:
        CohortError: It is not built, or with other settings.
    """
    _require(study, domain)
    record: dict[str, Any] = read_json(study.paths.cohort_record(domain))
    return record


def _require(study: Study, domain: str) -> None:
    if not cohort_done(study, domain):
        raise CohortError(f"{study.paths.cohort_table(domain)}: no cohort yet. Run `dpdt cohort {study.file}`.")


def normalise_patient_id(patient_id: str) -> str:
    """One spelling of a patient id: without blanks, case and leading zeros.

    >>> normalise_patient_id(" 0012 ") == normalise_patient_id("12")
    True
    """
    return patient_id.strip().casefold().lstrip("0")


def patient_fraction(patient_id: str, *, salt: str) -> float:
    """A number in [0, 1) that depends on the patient and the salt alone: SHA-256, first 53 bits.

    >>> patient_fraction("0012", salt="0:test") == patient_fraction("12", salt="0:test")
    True
    """
    digest = hashlib.sha256(f"dpdt:{salt}:{normalise_patient_id(patient_id)}".encode()).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) / float(1 << 53)


def _resolve_healthy(frame: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    """The finding wins over healthy."""
    wrong = (frame["healthy"] == 1).fillna(False) & (frame[list(FINDINGS)] == 1).fillna(False).any(axis=1)
    return frame.assign(healthy=frame["healthy"].mask(wrong, 0)), int(wrong.sum())


def _hashed_below(patient_ids: "pd.Series[str]", fraction: float, salt: str) -> "pd.Series[bool]":
    """Whether each row's patient falls below `fraction`."""
    places = {patient: patient_fraction(patient, salt=salt) < fraction for patient in patient_ids.unique()}
    return patient_ids.map(places).astype(bool)


def _split(frame: pd.DataFrame, study: Study, domain: str) -> pd.DataFrame:
    """Fill in `split`: official, else by hash; val out of train where none is official."""
    settings, seed = study.domains[domain], study.study.seed
    split = frame["split"].astype(object)
    official = split.notna()
    if official.any() and not official.all():
        raise CohortError(f"{domain}: {int((~official).sum())} of {len(frame)} rows have no official split.")
    if not official.any():
        test = _hashed_below(frame["patient_id"], settings.test_fraction, f"{seed}:test")
        split = pd.Series(np.where(test, "test", "train"), index=frame.index, dtype=object)
    if not (split == "val").any():
        val = _hashed_below(frame["patient_id"], settings.val_fraction, f"{seed}:val")
        split = split.mask((split == "train") & val, "val")
    return frame.assign(split=split.astype("str"))


def _check(frame: pd.DataFrame, domain: str) -> None:
    """What must hold for every cohort."""
    twice = frame["image_id"][frame["image_id"].duplicated()]
    if len(twice):
        row, other = (int(row) + 1 for row in frame.index[frame["image_id"] == twice.iloc[0]][:2])
        raise CohortError(
            f"{domain}: {len(twice)} rows repeat an image_id, first rows {row} and {other} of the raw table. "
            "Each image must occur once."
        )
    for column in ("image_id", "patient_id", "path"):
        if (frame[column].isna() | (frame[column] == "")).any():
            raise CohortError(f"{domain}: {column} is empty in {int((frame[column] == '').sum())} rows.")
    keys = frame["patient_id"].map({p: normalise_patient_id(p) for p in frame["patient_id"].unique()})
    splits = frame["split"].groupby(keys).nunique()
    crossing = splits.index[splits > 1]
    if len(crossing):
        first = hashlib.sha256(min(crossing).encode()).hexdigest()[:12]
        raise CohortError(
            f"{domain}: {len(crossing)} patients are in more than one split (first, as a hash: {first}). "
            "The published split is not disjoint by patient; correct the list."
        )
    if not (frame["split"] == "train").any():
        raise CohortError(f"{domain}: no image is left for training ({len(frame)} images in all).")


def _table(frame: pd.DataFrame, domain: str) -> pd.DataFrame:
    """The frame as it is written."""
    table = frame.assign(domain=domain).sort_values("image_id", kind="stable", ignore_index=True)[list(COLUMNS)]
    types: dict[str, Any] = {name: "str" for name in COLUMNS if name not in (*LABELS, "age_years")}
    return table.astype({**types, "age_years": "float64", **dict.fromkeys(LABELS, "Int8")})


def _count(table: pd.DataFrame, exclusions: pd.DataFrame, counts: dict[str, int]) -> list[dict[str, Any]]:
    """Rows of the summary."""
    domain = table["domain"].iloc[0]

    def number(what: str, value: str, images: int) -> dict[str, Any]:
        return dict(zip(SUMMARY_COLUMNS, (domain, "", what, value, images, ""), strict=True))

    def row(split: str, what: str, value: str, part: pd.DataFrame) -> dict[str, Any]:
        cells = (domain, split, what, value, len(part), int(part["patient_id"].nunique()))
        return dict(zip(SUMMARY_COLUMNS, cells, strict=True))

    rows = [number("rows read", "", len(table) + len(exclusions))]
    rows += [number("excluded", str(why), int(n)) for why, n in exclusions["reason"].value_counts().items()]
    rows += [number("note", what, n) for what, n in counts.items() if n]
    rows.append(row("all", "total", "", table))
    for split in SPLITS:
        part = table[table["split"] == split]
        groups = part["age_years"].map(age_group)
        rows.append(row(split, "total", "", part))
        rows += [row(split, "view", view, part[part["view"] == view]) for view in sorted(part["view"].unique())]
        rows += [row(split, "sex", sex, part[part["sex"] == sex]) for sex in SEXES]
        rows += [row(split, "age", group, part[groups == group]) for group in sorted(groups.unique())]
        for label in LABELS:
            rows.append(row(split, label, "positive", part[(part[label] == 1).fillna(False)]))
            if part[label].isna().any():
                rows.append(row(split, label, "unknown", part[part[label].isna()]))
    return rows


def _record(
    study: Study, domain: str, table: pd.DataFrame, raw: RawCohort, rows: list[dict[str, Any]]
) -> dict[str, Any]:
    """What is kept about how the cohort came about."""
    root = study.root(domain)
    keys = table["image_id"] + "\t" + table["patient_id"] + "\t" + table["split"] + "\n"
    return {
        "format": 1,
        "domain": domain,
        "kind": study.kind(domain),
        "fingerprint": study.cohort_fingerprint(domain),
        "settings": study.domains[domain].model_dump(mode="json", exclude={"root"}),
        "seed": study.study.seed,
        "synthetic": (root / SYNTHETIC_MARKER).is_file(),
        "inputs": [{"file": _relative(path, root), "sha256": sha256_file(path)} for path in raw.files],
        "split_sha256": hashlib.sha256("".join(keys).encode()).hexdigest(),
        "counts": [{name: row[name] for name in SUMMARY_COLUMNS} for row in rows],
    }


def _show(record: dict[str, Any]) -> None:
    """Print the counts: a line a value, a column a split."""
    lines: dict[tuple[str, str], dict[str, int]] = {}
    for row in record["counts"]:
        what = "images" if row["what"] == "total" else row["what"]
        lines.setdefault((what, row["value"]), {})[row["split"] or "all"] = row["images"]
        if row["what"] == "total":
            lines.setdefault(("patients", ""), {})[row["split"]] = row["patients"]
    rows = []
    for (what, value), images in lines.items():
        total = images.get("all", sum(images.values()))
        rows.append([what, value, total, *(images.get(split, 0 if "all" not in images else "") for split in SPLITS)])
    title = f"Cohort {record['domain']}" + (" (synthetic)" if record["synthetic"] else "")
    show_table(title, ("what", "value", "all", *SPLITS), rows)


def _relative(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name


def _write_summary(study: Study) -> None:
    """Write `cohort/summary.csv` anew from every record that is there."""
    path = study.paths.cohort_summary
    with exclusive_lock(path.with_name(".summary.lock")):
        records = [study.paths.cohort_record(domain) for domain in study.domains]
        rows = [row for record in records if record.is_file() for row in read_json(record)["counts"]]
        with atomic_path(path) as temporary:
            pd.DataFrame(rows, columns=list(SUMMARY_COLUMNS)).to_csv(temporary, index=False)


def _summary(record: dict[str, Any], *, built: bool) -> CohortSummary:
    def images(what: str, key: str) -> Iterable[tuple[str, int]]:
        return ((row[key], row["images"]) for row in record["counts"] if row["what"] == what)

    totals = dict(images("total", "split"))
    patients = next(row["patients"] for row in record["counts"] if row["what"] == "total" and row["split"] == "all")
    return CohortSummary(
        domain=record["domain"],
        rows_read=next(n for _, n in images("rows read", "split")),
        excluded=dict(images("excluded", "value")),
        images=totals.pop("all"),
        patients=patients,
        splits=totals,
        synthetic=record["synthetic"],
        built=built,
    )
