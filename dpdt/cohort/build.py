"""The cohort of a domain: one table, made from the raw metadata, with a split by patient.

Rules, each counted in `cohort/<domain>.json` and `cohort/summary.csv`:

- Official splits are kept. Where none exists a patient goes to `test` if a salted hash of the patient id falls below
  `test_fraction`; `val` is carved out of train in the same way. A patient's place depends on the id and the study's
  seed alone, so files that are added later move no patient to another split.
- Healthy contradicting a finding: `contradictions` decides; by default the finding wins and `healthy` becomes 0.
- Ids of patients that differ only in blanks, case, leading zeros or a number's `.0` are one patient.
- An image without a single label is left out.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import pandas as pd

from dpdt.base.console import warn
from dpdt.base.files import atomic_path, exclusive_lock, read_json, sha256_file, write_json
from dpdt.base.vocabulary import healthy_label
from dpdt.cohort.checks import check_rows, check_shared_patients, check_training, warnings_of
from dpdt.cohort.former import Dependents, dependents, moved_patients, set_aside
from dpdt.cohort.hospitals import read_domain
from dpdt.cohort.hospitals.known_files import content_sha256, version
from dpdt.cohort.hospitals.raw_cohort import MISSING_IMAGES, RawCohort, Wanted, errors_of
from dpdt.cohort.splits import check_patients, fill_split, one_spelling, patient_fraction
from dpdt.cohort.summary import SUMMARY_COLUMNS, count, show
from dpdt.cohort.table import (
    COLUMNS,
    SYNTHETIC_MARKER,
    cohort_columns,
    images_sha256,
    labels_sha256,
    lost_columns,
    read_record,
    why_outdated,
)
from dpdt.errors import CohortError, PrivacyError, StudyError
from dpdt.study import Study

__all__ = ["CohortSummary", "build_cohort", "patient_fraction"]


CONTRADICTIONS: Final = {
    "finding": "healthy with a finding, set to 0",
    "unknown": "healthy with a finding, set to unknown",
    "exclude": "healthy with a finding, left out",
    "keep": "healthy with a finding, kept",
}
NO_DISEASE: Final = ("support_devices",)
"""What a healthy radiograph may show: CheXpert's labeller leaves it out of No Finding (Irvin et al., AAAI 2019)."""


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


def build_cohort(study: Study, domain: str, *, rebuild: bool = False) -> CohortSummary:
    """Read a domain's raw metadata, split it, check it and write it; quick where that is done.

    A cohort that was built with other settings, or from a list that was changed since, is built anew where nothing
    depends on it.

    Args:
        study: The study.
        domain: One of its domains.
        rebuild: Build it anew also where shards or runs depend on it; the former one is kept as `<domain>.old-1`.

    Returns:
        The counts; they are also printed as a table when the cohort is built.

    Raises:
        StudyError: The domain, or a name in its `files`, is unknown.
        CohortError: The raw metadata is not as published, a patient is in two splits, a patient's id is a
            placeholder, an image_id occurs twice, or the cohort was built with other settings or from other lists,
            and shards or runs depend on it.
        PrivacyError: Another domain, of the other role, has the same patients.
    """
    if domain not in study.domains:
        raise StudyError(f"no [domains.{domain}] in {study.file}. Known: {', '.join(study.domains) or 'none'}.")
    paths = study.paths
    outdated = why_outdated(study, domain)
    if outdated == "" and not rebuild and not lost_columns(study, domain):
        return _summary(read_record(study, domain), built=False)
    made = dependents(study, domain)
    if outdated and made and not rebuild:
        raise CohortError(
            f"{outdated}, and it is used ({made}). Restore what was changed, or build it anew and keep the "
            f"former one beside it: `dpdt cohort {study.file} --domain {domain} --rebuild`. Runs that were trained on "
            "other labels or patients than it then has are refused, and training them again spends privacy again."
        )
    root = study.root(domain)
    with errors_of(domain):
        wanted = Wanted(study.definitions(domain), study.group_columns(domain))
        raw = read_domain(study.kind(domain), root, study.domains[domain], wanted)
    frame, gone, notes = _resolve(raw.frame, study.study.labels, study.domains[domain].contradictions)
    raw = replace(raw, frame=frame.iloc[:0].copy())  # many labels of a large list need not be there twice
    exclusions = pd.concat([raw.exclusions, gone])
    check_rows(frame, domain)
    frame, respelled = one_spelling(frame)
    frame, how = fill_split(frame, study, domain)
    check_patients(frame, domain)
    check_training(frame, exclusions, domain)
    table = _written_columns(frame, study, domain)
    notes |= {"spellings of a patient's id made one": respelled, "patients with two sexes": _two_sexes(table)}
    rows = count(table, exclusions, {**raw.counts, **notes}, labels=study.study.labels)
    record = _record(study, domain, table, raw, rows, how)
    told = [] if outdated is None else _keep_former(study, domain, record, table, made)
    paths.cohort_record(domain).unlink(missing_ok=True)  # after a kill, an old record must not vouch for a new table
    with atomic_path(paths.cohort_table(domain)) as temporary:
        table.to_parquet(temporary, index=False)
    with atomic_path(paths.cohort_exclusions(domain)) as temporary:
        exclusions.to_csv(temporary, index=False)
    write_json(paths.cohort_record(domain), record)
    shared = _publish(study, domain)
    show(record)
    for text in [*record["warnings"], *shared, *told]:
        warn(text)
    return _summary(record, built=True)


def _keep_former(study: Study, domain: str, record: dict[str, Any], table: pd.DataFrame, made: Dependents) -> list[str]:
    """Set a cohort aside on which something depends, note its hashes in the new record, and say what depends on it."""
    paths = study.paths
    before, old = pd.read_parquet(paths.cohort_table(domain)), read_json(paths.cohort_record(domain))
    if former := old.get("former", []):
        record["former"] = former
    same = set(before) <= set(table) and before.equals(table[list(before)])  # further columns teach no model
    same = same and old.get("fingerprint") == record["fingerprint"]  # with another one shards have to be made anew
    if not made or same:
        return []
    labels = [str(name) for name in before if name not in COLUMNS and name not in old.get("columns", {})]
    name = set_aside(study, domain)
    hashes = {"split_sha256": old["split_sha256"], "labels_sha256": labels_sha256(before, "train", labels)}
    record["former"] = [*former, {"name": name, **hashes}]
    told = [f"{domain}: built anew; the former cohort is {paths.cohort_table(domain).with_name(name)}.* ({made})."]
    for what, patients in moved_patients(before, table).items():
        if patients:
            told.append(f"{domain}: {patients} patients {what}.")
    if made.trained:
        told.append(
            f"{domain}: {', '.join(made.trained)} learned from the former cohort. `dpdt evaluate` refuses those whose "
            "patients or labels are others now; to train one again, move its folder away (it spends privacy again)."
        )
    return told


def _resolve(
    frame: pd.DataFrame, labels: Sequence[str], contradictions: str
) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, int]]:
    """Settle images that are healthy and have a finding, and leave out those without any known label.

    Returns:
        What stays, what goes (columns image_id, view, reason), and the number of contradictions under its rule.
    """
    healthy = healthy_label(labels)
    values = frame[list(labels)].to_numpy(dtype="int8", na_value=-1)
    wrong = pd.Series(False, index=frame.index)
    if healthy is not None:
        findings = [at for at, label in enumerate(labels) if label not in (healthy, *NO_DISEASE)]
        wrong |= (values[:, labels.index(healthy)] == 1) & (values[:, findings] == 1).any(axis=1)
        if contradictions in ("finding", "unknown"):
            value = 0 if contradictions == "finding" else pd.NA
            frame = frame.assign(**{healthy: frame[healthy].mask(wrong, value)})
    reasons = pd.Series("", index=frame.index, dtype="str")
    reasons = reasons.mask((values == -1).all(axis=1), "no known label")
    if contradictions == "exclude":
        reasons = reasons.mask(wrong, "healthy with a finding (policy exclude)")
    gone = frame[reasons != ""]
    exclusions = gone[["image_id", "view"]].assign(reason=reasons[reasons != ""])
    return frame if gone.empty else frame[reasons == ""], exclusions, {CONTRADICTIONS[contradictions]: int(wrong.sum())}


def _two_sexes(table: pd.DataFrame) -> int:
    """Patients recorded as female and as male; each image keeps what is recorded with it."""
    known = table[table["sex"] != "unknown"][["patient_id", "sex"]].drop_duplicates()
    return int(known["patient_id"].duplicated().sum())


def _written_columns(frame: pd.DataFrame, study: Study, domain: str) -> pd.DataFrame:
    """The frame as it is written."""
    columns, labels = cohort_columns(study, domain), study.study.labels
    table = frame.assign(domain=domain).sort_values("image_id", kind="stable", ignore_index=True)[list(columns)]
    types: dict[str, Any] = {name: "str" for name in columns if name not in (*labels, "age_years")}
    return table.astype({**types, "age_years": "float64", **dict.fromkeys(labels, "Int8")})


def _record(
    study: Study, domain: str, table: pd.DataFrame, raw: RawCohort, rows: list[dict[str, Any]], how: dict[str, str]
) -> dict[str, Any]:
    """What is kept about how the cohort came about."""
    root, settings = study.root(domain), study.domains[domain]
    synthetic = (root / SYNTHETIC_MARKER).is_file()
    keys = table["image_id"] + "\t" + table["patient_id"] + "\t" + table["split"] + "\n"
    inputs, versions = _inputs(study.kind(domain), raw, root)
    missing = raw.counts.get(MISSING_IMAGES, 0)
    views = {"views": "frontal" + (" and unknown" if settings.unknown_views == "include" else "")}
    return {
        "format": 2,
        "domain": domain,
        "kind": study.kind(domain),
        "fingerprint": study.cohort_fingerprint(domain),
        "settings": settings.model_dump(mode="json", exclude={"root"}),
        "policies": {**views, **raw.policies, "contradictions": settings.contradictions, **how},
        "seed": study.study.seed,
        **({"columns": columns} if (columns := study.group_columns(domain)) else {}),
        "synthetic": synthetic,
        "inputs": inputs,
        "warnings": [
            *([] if synthetic else versions),
            *raw.warnings,
            *warnings_of(study, domain, table, missing=missing),
        ],
        "images_sha256": images_sha256(table),
        "split_sha256": hashlib.sha256("".join(keys).encode()).hexdigest(),
        "counts": [{name: row[name] for name in SUMMARY_COLUMNS} for row in rows],
    }


def _inputs(kind: str, raw: RawCohort, root: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """Every file that was read, with its hashes and its version where known; and a warning for each unknown one."""
    inputs, warnings = [], []
    for name, path in raw.files.items():
        content = content_sha256(path)
        published, found = version(kind, name, content)
        entry = {"name": name, "file": _relative(path, root), "sha256": sha256_file(path)}
        inputs.append({**entry, "content_sha256": content, "version": found})
        if published and found is None:
            warnings.append(
                f"{path}: not a version of this file that dpdt knows. It was read all the same; "
                "compare the counts with docs/cohorts.md."
            )
    return inputs, warnings


def _relative(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name


def _publish(study: Study, domain: str) -> list[str]:
    """Rewrite `cohort/summary.csv` from every record that is there; return warnings about patients of two domains.

    Under the lock, so that of two domains that are read at once the later one finds the other.
    """
    path = study.paths.cohort_summary
    with exclusive_lock(path.with_name(".summary.lock")):
        try:
            shared = list(check_shared_patients(study, domain))
        except PrivacyError:
            study.paths.cohort_record(domain).unlink()
            raise
        records = [study.paths.cohort_record(domain) for domain in study.domains]
        rows = [row for record in records if record.is_file() for row in read_json(record)["counts"]]
        with atomic_path(path) as temporary:
            pd.DataFrame(rows, columns=list(SUMMARY_COLUMNS)).to_csv(temporary, index=False)
    return shared


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
