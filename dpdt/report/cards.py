"""A data sheet a hospital and a model card a run, as pages of their own beside the report.

A data sheet says what dpdt knows of Gebru et al.'s questions (Datasheets for Datasets, Commun. ACM 64 (2021)) and names
what the hospital has to write. Counts are rounded to tens, and small ones withheld: such a page is passed on.
"""

from collections.abc import Iterator, Sequence
from typing import Final

import pandas as pd

from dpdt.base.vocabulary import SPLITS
from dpdt.bundle.card import Card, Part, html_card, run_card
from dpdt.evaluation.metrics import ALL, AVERAGE, FEWEST_PATIENTS
from dpdt.report import provenance
from dpdt.report.format import estimate
from dpdt.report.intervals import Interval
from dpdt.report.names import domain_name, group_name, label_name, model_name
from dpdt.runs.read import Run, is_synthetic
from dpdt.shards.manifest import read_manifest
from dpdt.study import Study

__all__ = ["data_sheets", "model_cards"]

TO_WRITE: Final = (
    "Why the radiographs were taken, when, where and with which machines; whom they stand for, and whom not.",
    "How and by whom they were labelled, and how often the labels are wrong.",
    "Ethics approval, consent or waiver; how they were de-identified; licence and terms of use; whom to ask.",
)
UNNAMED: Final = (
    "It is not published which patient an image is of, so each image counts as one patient: no image is in two splits, "
    "but a patient may be."
)
ROLES: Final = {"train_domains": "training", "test_domains": "tests", "public_domains": "public pretraining"}


def model_cards(runs: Sequence[Run], by_run: pd.DataFrame) -> dict[str, tuple[str, str]]:
    """Name and page of each model's card, by its file.

    Args:
        runs: Those with a privacy statement have a card.
        by_run: AUCs, from `tables.auc_by_run`.
    """
    macro = by_run[(by_run["label"] == AVERAGE) & (by_run["subgroup"] == ALL)]
    found = {}
    for run in (run for run in runs if run.kind != "bundle" and run.privacy()):
        rows = macro[macro["run_id"] == run.run_id].to_dict("records")
        results = [
            (f"macro AUC, {domain_name(r['test_domain'])}", estimate(r["auc"], Interval(r["ci_low"], r["ci_high"])))
            for r in rows
        ]
        name = model_name(run)
        found[f"cards/{run.run_id}.html"] = (name, html_card(run_card(run, results, name=name)))
    return found


def data_sheets(study: Study, runs: Sequence[Run]) -> dict[str, tuple[str, str]]:
    """Name and page of each hospital's data sheet, by its file; none without a cohort summary."""
    flows, nameless = provenance.flows(study), provenance.nameless(runs)
    found = {}
    for one in provenance.counted(study):
        parts = list(_sheet(study, one, flows, nameless=one.domain in nameless))
        name = domain_name(one.domain)
        found[f"cards/data-{one.domain}.html"] = (name, html_card(Card(f"Data sheet: {name}", parts)))
    return found


def _sheet(study: Study, one: provenance.Counted, flows: dict[str, pd.DataFrame], *, nameless: bool) -> Iterator[Part]:
    def number(images: object, patients: object) -> str:
        if not str(patients).isdigit():
            return _about(float(str(images)), "images")
        people = int(str(patients))
        told = _about(people, "patients")
        return told if _few(people) else f"{_about(int(str(images)), 'images')}, {told}"

    roles = [role for name, role in ROLES.items() if one.domain in getattr(study, name)]
    drawn = ["Synthetic: its images were drawn by a program."] if is_synthetic(study) else []
    facts = [("read as", domain_name(study.kind(one.domain))), ("used here for", ", ".join(roles))]
    yield Part("What it is", drawn, facts)
    steps = flows[one.domain][flows[one.domain]["step"].isin(("read", "excluded", "rejected", "used"))]
    yield Part(
        "How images came in",
        ["Excluded: by the cohort's rules. Rejected: without usable pixels. Used: what the networks saw."],
        [
            (f"{row['step']}: {row['what']}".removesuffix(": used"), _about(row["images"], "images"))
            for row in steps.to_dict("records")
        ],
    )
    values = dict.fromkeys((what, value) for what, value, _ in one.counts if what in ("total", "sex", "age"))
    values |= dict.fromkeys((label, "positive") for label in study.study.labels)
    rows = [
        (f"{_name(what, value)}, {provenance.SPLIT_NAMES[split]}", number(*one.counts[what, value, split]))
        for what, value in values
        for split in SPLITS
        if (what, value, split) in one.counts
    ]
    rounded = f"Rounded to {FEWEST_PATIENTS}, so that no small group is what others leave of a sum."
    told = UNNAMED if nameless else "No patient is in two splits."
    yield Part("Who is in it", [told, rounded], rows)
    manifest = study.paths.shards(one.domain).manifest
    if manifest.exists():
        made = read_manifest(manifest)
        pixels = {**made["settings"], **made["codecs"]}
        yield Part("Pixels", (), [(name, str(value)) for name, value in pixels.items()])
    yield Part("For the hospital to write", TO_WRITE)


def _about(count: float, what: str) -> str:
    """A count that gives no small group away."""
    return f"fewer than {FEWEST_PATIENTS} {what}" if _few(count) else f"{round(count, -1):,.0f} {what}"


def _few(count: float) -> bool:
    return 0 < count < FEWEST_PATIENTS


def _name(what: str, value: str) -> str:
    if what == "total":
        return "all"
    known = what in ("sex", "age") and value != "unknown"
    return group_name(value) if known else f"{label_name(what)} {value}"
