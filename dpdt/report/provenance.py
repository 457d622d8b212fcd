"""The report's sections on the cohorts, on privacy, and on where the numbers come from."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import pandas as pd

from dpdt.base.vocabulary import MAIN_LABELS, SPLITS, format_bound
from dpdt.cohort.shared_patients import shared_patients
from dpdt.cohort.splits import in_part
from dpdt.cohort.summary import count
from dpdt.cohort.table import read_cohort
from dpdt.errors import DpdtError
from dpdt.evaluation.audit.membership import membership_text
from dpdt.report.format import Table, thousands
from dpdt.report.names import domain_name, label_name, model_name
from dpdt.runs.read import Run
from dpdt.shards.manifest import read_manifest
from dpdt.shards.reader import used_images
from dpdt.study import Study

__all__ = [
    "Counted",
    "audits",
    "cohort",
    "counted",
    "flows",
    "nameless",
    "other_releases",
    "paragraphs",
    "people",
    "privacy_table",
    "provenance",
    "versions",
]

HASH_DIGITS: Final = 12
SPLIT_NAMES: Final = {"all": "used", "train": "training", "val": "validation", "test": "test"}
BOUNDS: Final = ("epsilon", "delta")
OTHERS: Final = "what else was released (the table above)"  # which statements have as `other_releases`


class Counted(NamedTuple):
    """One hospital's cohort in numbers."""

    domain: str
    counts: Mapping[tuple[str, str, str], tuple[Any, Any]]  # images and patients by what, value and split
    excluded: list[tuple[str, int]]
    rejected: list[tuple[str, int]] | None  # None: there are no shards yet


def counted(study: Study) -> list[Counted]:
    """The hospitals of the cohorts' summary; none without one."""
    path = study.paths.cohort_summary
    if not path.exists():
        return []
    summary = pd.read_csv(path, keep_default_na=False, dtype=str)
    found = []
    for domain in (domain for domain in study.used_domains if domain in set(summary["domain"])):
        rows = list(summary[summary["domain"] == domain].itertuples())
        counts: dict[Any, Any] = {(r.what, r.value, r.split): (r.images, r.patients) for r in rows}
        used, rejected = _used(study, domain), None
        if used is not None:
            counts.update(_counts_of(used, study.study.labels))
            rejected = list(read_manifest(study.paths.shards(domain).manifest)["rejected_reasons"].items())
        excluded = [(str(r.value), int(str(r.images))) for r in rows if r.what == "excluded"]
        found.append(Counted(domain, counts, excluded, rejected))
    return found


def flows(study: Study) -> dict[str, pd.DataFrame]:
    """Each hospital's images from its list to the splits: `step, what, images, patients`, for a flow diagram."""
    found = {}
    for one in counted(study):
        read = one.counts.get(("rows read", "", ""), ("", ""))[0]
        rows: list[tuple[str, str, Any, Any]] = [("read", "in the list", read, "")]
        rows += [("excluded", why, n, "") for why, n in one.excluded]
        rows += [("rejected", why, n, "") for why, n in one.rejected or ()]
        rows += [
            ("used" if split == "all" else "split", SPLIT_NAMES[split], *one.counts[key])
            for split in ("all", *SPLITS)
            if (key := ("total", "", split)) in one.counts
        ]
        table = pd.DataFrame(rows, columns=["step", "what", "images", "patients"])
        numbers = {name: pd.to_numeric(table[name], errors="coerce") for name in ("images", "patients")}
        found[one.domain] = table.assign(**numbers).dropna(subset="images")
    return found


def people(study: Study, runs: Sequence[Run]) -> str:
    """How many patients taught the models, and how many they were tested on; empty without a summary."""
    of_domain = {one.domain: one.counts for one in counted(study)}

    def of_split(domain: str, split: str) -> str:
        return str(of_domain.get(domain, {}).get(("total", "", split), ("", ""))[1])

    def number(of: Sequence[str]) -> str:
        return f"{sum(int(n) for n in of):,}" if of and all(n.isdigit() for n in of) else ""

    trained = number(
        [of_split(d, "train") and (_of_part(study, d) or of_split(d, "train")) for d in study.train_domains]
    )
    tested = number([of_split(domain, "test") for domain in study.test_domains])
    if not trained or not tested:
        return ""
    where = f"{len(study.train_domains)} {'hospitals' if len(study.train_domains) > 1 else 'hospital'}"
    alone = "each seen by models of that hospital alone"
    twice = sum(shared_patients(study).values())
    same = f" ({twice:,} of them have the id of one at another of these hospitals, and count twice)" if twice else ""
    unnamed = nameless(runs)
    images = f" (of {' and '.join(map(domain_name, unnamed))} each image counts as a patient)" if unnamed else ""
    return f"{trained} patients of {where} in training{same}{images}, {alone}; {tested} others in the tests"


def nameless(runs: Sequence[Run]) -> list[str]:
    """Domains whose DP runs state that they do not publish which patient an image is of."""
    return list(dict.fromkeys(run.domain for run in runs if "unit_note" in (run.privacy() or {})))


def _of_part(study: Study, domain: str) -> str:
    """Patients of the part of a train split that this view trains on; "" where it is the whole."""
    if study.part_of(domain) == 1:
        return ""
    used = used_images(study, domain)
    frame = read_cohort(study, domain) if used is None else used
    patients = frame.loc[frame["split"] == "train", "patient_id"]
    return str(patients[in_part(patients, study, domain)].nunique())


def cohort(study: Study) -> dict[str, Table] | None:
    """How each domain's images became those that networks saw, and their positives; None without a summary."""
    flow, positives = [], []
    for one in counted(study):
        name = domain_name(one.domain)

        def images(what: str, value: str, split: str, counts: Mapping[Any, Any] = one.counts) -> str:
            return thousands(str(counts.get((what, value, split), ("", ""))[0]))

        def both(split: str, counts: Mapping[Any, Any] = one.counts) -> str:
            n, of = (thousands(str(number)) for number in counts.get(("total", "", split), ("", "")))
            return f"{n} ({of})" if n != "–" else n

        number = thousands(str(sum(n for _, n in one.excluded)))
        lost = "–" if one.rejected is None else thousands(str(sum(n for _, n in one.rejected)))
        flow.append([name, images("rows read", "", ""), number, lost, *map(both, ("all", *SPLITS))])
        positives += [
            [name, SPLIT_NAMES[split], *(images(label, "positive", split) for label in study.study.labels)]
            for split in ("train", "test")
        ]
    if not flow:
        return None
    return {
        "flow": Table(["hospital", "rows read", "excluded", "rejected", *SPLIT_NAMES.values()], flow),
        "positives": _positives(study.study.labels, positives),
    }


def _positives(labels: Sequence[str], rows: list[list[str]]) -> Table:
    """Positive images by domain and split; of many labels each is a row, so that the table fits the page."""
    names = [label_name(label) for label in labels]
    if len(labels) <= MAIN_LABELS:
        return Table(["hospital", "split", *names], rows)
    columns = [f"{domain}, {split}" for domain, split, *_ in rows]
    return Table(["label", *columns], [[name, *(row[2 + at] for row in rows)] for at, name in enumerate(names)])


def _used(study: Study, domain: str) -> pd.DataFrame | None:
    """The images that networks saw; None as long as there are no shards of today's cohort."""
    try:
        used = used_images(study, domain)
    except DpdtError:  # the report is made from what is there
        return None
    return used if used is not None and len(used) else None


def _counts_of(used: pd.DataFrame, labels: Sequence[str]) -> dict[tuple[str, str, str], tuple[int, int]]:
    """As the cohort's summary counts its images: images and patients by what, value and split."""
    rows = count(used, pd.DataFrame({"image_id": [], "view": [], "reason": []}, dtype=str), {}, labels=labels)
    return {(row["what"], row["value"], row["split"]): (row["images"], row["patients"]) for row in rows if row["split"]}


def privacy_table(runs: Sequence[Run]) -> Table:
    """What each DP run guarantees, from its privacy statement."""
    fields = {
        "epsilon": "ε spent",
        "delta": "δ",
        "num_units": f"{runs[0].unit if runs else 'unit'}s",
        "neighbouring_relation": "neighbours",
        "noise_multiplier": "noise multiplier (less rounding)",
        "max_grad_norm": "clipping norm",
        "sample_rate": "sample rate",
        "num_steps": "steps",
        "accountant": "accountant",
    }
    rows = []
    for run in runs:
        statement = run.privacy() or {}
        if run.private:
            values = {key: _value(statement.get(key), up=key in BOUNDS) for key in fields}
            if accounted := statement.get("accounted_noise_multiplier"):
                values["noise_multiplier"] += f" ({_value(accounted)})"
            rows.append([model_name(run), *values.values()])
            if not statement.get("complete", True):
                rows[-1][1] += " when complete"
    return Table(["model", *fields.values()], rows)


def _value(value: Any, *, up: bool = False) -> str:
    """A value of a statement as text; bounds are rounded up."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return format_bound(value, digits=4) if up else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def audits(runs: Sequence[Run]) -> Table:
    """What `dpdt audit` found, a row a run that it was tried on."""
    rows = []
    for run in runs:
        found = run.audit()
        if found is None:
            continue
        member, canaries = found["membership"], found["canaries"] or {}
        auc = membership_text(member)
        lower = _value(canaries.get("epsilon_lower"))
        if canaries:
            lower += f" ({canaries['right']} of {canaries['guesses']} guesses right)"
        verdict = "refuted" if found["refuted"] else "holds" if canaries else "–"
        rows.append([model_name(run), lower, _value(canaries.get("epsilon_upper"), up=True), auc, verdict])
    columns = ["model", "ε at least (canaries)", "ε at most (accountant)", "membership AUC", "the claim"]
    return Table(columns, rows)


def paragraphs(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """Each run's statement in plain words, with the hospital's name as readers know it."""
    found = []
    for run in runs:
        text = str((run.privacy() or {}).get("paragraph") or "").replace("the items of `other_releases`", OTHERS)
        if text:
            found.append((model_name(run), re.sub(rf"\b{re.escape(run.domain)}\b", domain_name(run.domain), text)))
    return found


def other_releases(runs: Sequence[Run]) -> Table:
    """What else was released from the private data, as the DP runs' statements say, each entry once."""
    columns = ["what", "source", "accounted"]
    found: dict[tuple[str, ...], None] = {}
    for run in runs:
        statement = (run.privacy() or {}) if run.private else {}
        for release in statement.get("other_releases") or []:
            found[tuple(str(release.get(column, "")) for column in columns)] = None
    return Table(["also released", "where from", "is it in ε?"], [list(row) for row in found])


def provenance(runs: Sequence[Run]) -> Table:
    """Which run folders the report rests on."""
    rows = []
    for run in runs:
        data = run.config.get("data", {})
        steps = f"{run.state.get('step', 0):,} of {run.config.get('num_steps', 0):,}"
        hashes = [str(data.get(key, ""))[:HASH_DIGITS] or "–" for key in ("split_hmac", "manifest_hmac")]
        rows.append([model_name(run), run.run_id, run.status, steps, *hashes])
    return Table(["model", "run", "status", "steps", "split (keyed hash)", "shards (keyed hash)"], rows)


def versions(runs: Sequence[Run]) -> list[str]:
    """Software that the runs were made with, each combination once."""
    return sorted({", ".join(f"{k} {v}" for k, v in run.config.get("versions", {}).items()) for run in runs} - {""})
