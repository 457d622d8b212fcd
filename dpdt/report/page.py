"""The report's page: what its sentences and tables say; `page.html.j2` says how it looks."""

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Final

import pandas as pd

from dpdt import __version__
from dpdt.metrics import ALL, AVERAGE
from dpdt.report import figures, tables
from dpdt.report.tables import Arm
from dpdt.results import Run, cell_runs, is_synthetic
from dpdt.study import Study, format_epsilon
from dpdt.vocabulary import LABELS, SPLITS, SUBGROUPS

__all__ = ["Contents", "render"]

SCOPES: Final = ("on-domain", "off-domain")
WHERE: Final = {"on-domain": " on the models' own domain", "off-domain": " on the other domains"}
HASH_DIGITS: Final = 12

Row = list[str]


@dataclass(frozen=True)
class Contents:
    """What the page shows."""

    auc: pd.DataFrame
    by_run: pd.DataFrame
    subgroups: pd.DataFrame
    figures: Mapping[str, bytes]


@dataclass(frozen=True)
class Table:
    """A table of the page."""

    columns: Row
    rows: list[Row]


def render(study: Study, contents: Contents) -> str:
    """The page as HTML, with its images inside."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    source = files("dpdt.report").joinpath("page.html.j2").read_text(encoding="utf-8")
    runs = [run for run in cell_runs(study).values() if run]
    arms = tables.arms(study, contents.auc)
    epsilons = sorted(study.privacy.target_epsilons, reverse=True)
    return environment.from_string(source).render(
        name=study.name,
        version=__version__,
        synthetic=is_synthetic(study),
        train_domains=study.train_domains,
        test_domains=study.test_domains,
        unit=study.privacy.unit,
        seeds=len(study.train.seeds),
        draws=study.evaluate.bootstrap_draws,
        confidence=f"{study.evaluate.confidence:.0%}",
        minimum=study.evaluate.min_subgroup_size,
        answer=answer(arms),
        arms=_arms_table(arms),
        average_maps=[
            _image(contents, f"auc_eps{format_epsilon(e)}_{AVERAGE}", _map_text(e, AVERAGE)) for e in epsilons
        ],
        label_maps={
            label: [_image(contents, f"auc_eps{format_epsilon(e)}_{label}", _map_text(e, label)) for e in epsilons]
            for label in LABELS
        },
        curve=_image(contents, "auc_over_epsilon", "Macro AUC over target epsilon, on- and off-domain."),
        subgroup_images=[
            _image(contents, f"subgroups_{scope}", f"Mean {scope} macro AUC by sex and age group and target epsilon.")
            for scope in SCOPES
        ],
        subgroups={scope: _subgroup_table(contents.subgroups, scope, epsilons) for scope in SCOPES},
        undefined=_undefined(contents.by_run),
        missing=tables.missing_runs(study),
        cohort=_cohort(study),
        privacy=_privacy_table(runs),
        paragraphs=_paragraphs(runs),
        other_releases=_other_releases(runs),
        provenance=_provenance(runs),
        versions=_versions(runs),
    )


def answer(arms: Sequence[Arm]) -> str:
    """The study's answer in one sentence, with its numbers."""
    cells = {(arm.target_epsilon, arm.scope): arm for arm in arms if not math.isnan(arm.auc)}
    epsilons = sorted({epsilon for epsilon, _ in cells}, reverse=True)
    if not epsilons:
        return "No model has been evaluated yet."
    clauses: list[str] = []
    for epsilon in epsilons:
        of_arm = {scope: cells[epsilon, scope] for scope in SCOPES if (epsilon, scope) in cells}
        values = [f"{arm.auc:.3f}{_difference(arm)}{'' if clauses else WHERE[scope]}" for scope, arm in of_arm.items()]
        arm = f"with ε = {format_epsilon(epsilon)}" if math.isfinite(epsilon) else "without DP"
        clauses.append(f"{arm} {'it' if clauses else 'the mean macro AUC'} is {' and '.join(values)}")
    compared = any(not math.isnan(arm.difference) for arm in arms)
    tail = " (in brackets: the difference to the same models without DP)." if compared else "."
    text = "; ".join(clauses) + tail
    return text[0].upper() + text[1:]


def _difference(arm: Arm) -> str:
    return "" if math.isnan(arm.difference) else f" ({_signed(arm.difference)})"


def _signed(value: float) -> str:
    """A difference with a real minus sign; `–` where it is undefined."""
    return "–" if math.isnan(value) else f"{value:+.3f}".replace("-", "−")


def _plain(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3f}"


def _arms_table(arms: Sequence[Arm]) -> Table:
    """Mean AUC of each arm by scope, with what the mean is over."""
    rows = []
    for arm in arms:
        difference = _signed(arm.difference)
        if not math.isnan(arm.difference) and arm.shared_pairs < arm.expected_pairs:
            difference += f" ({arm.shared_pairs} pairs)"
        pairs = f"{arm.pairs} of {arm.expected_pairs}"
        scope = arm.scope.replace("-", "\N{NON-BREAKING HYPHEN}")
        rows.append([scope, figures.arm_name(arm.target_epsilon), _plain(arm.auc), difference, pairs])
    return Table(["tested", "model", "macro AUC", "change from no DP", "pairs"], rows)


def _map_text(epsilon: float, label: str) -> str:
    what = "macro AUC" if label == AVERAGE else f"AUC of {label.replace('_', ' ')}"
    return f"Heat map of {what} by train and test domain, {figures.arm_name(epsilon)}."


def _image(contents: Contents, name: str, text: str) -> dict[str, str] | None:
    """An image as a data URI with its description; None if it was not drawn."""
    if name not in contents.figures:
        return None
    data = base64.b64encode(contents.figures[name]).decode()
    return {"source": f"data:image/png;base64,{data}", "text": text, "file": f"figures/{name}.png"}


def _subgroup_table(subgroups: pd.DataFrame, scope: str, epsilons: Sequence[float]) -> Table:
    """AUC by subgroup (rows) and arm (columns), DP arms with their difference to no DP."""
    cells = {
        (row["subgroup"], row["target_epsilon"]): (row["auc"], row["difference_to_no_dp"])
        for row in subgroups[subgroups["scope"] == scope].to_dict("records")
    }
    rows = []
    for group in (ALL, *SUBGROUPS):
        row = [figures.group_name(group)]
        for epsilon in epsilons:
            value, change = cells[group, epsilon]
            row.append(_plain(value) + ("" if math.isnan(change) else f" ({_signed(change)})"))
        rows.append(row)
    return Table(["subgroup", *(figures.arm_name(epsilon) for epsilon in epsilons)], rows)


def _undefined(by_run: pd.DataFrame) -> Table:
    """Cells without a number, once a test domain, label and subgroup, with n and the reason."""
    cells = by_run[by_run["auc"].isna() & (by_run["label"] != AVERAGE)]
    unique = cells.drop_duplicates(["test_domain", "label", "subgroup"])
    rows = [
        [str(row.test_domain), str(row.label).replace("_", " "), figures.group_name(str(row.subgroup)), str(row.reason)]
        for row in unique.itertuples()
    ]
    return Table(["tested on", "label", "subgroup", "why there is no AUC"], rows)


def _cohort(study: Study) -> dict[str, Table] | None:
    """How each domain's images became its cohort, and its positives; None without a summary."""
    path = study.paths.cohort_summary
    if not path.exists():
        return None
    summary = pd.read_csv(path, keep_default_na=False, dtype=str)
    counts = summary.set_index(["domain", "what", "value", "split"])["images"]
    patients = summary.set_index(["domain", "what", "value", "split"])["patients"]

    def images(domain: str, what: str, value: str, split: str) -> str:
        return _thousands(str(counts.get((domain, what, value, split), "")))

    def both(domain: str, split: str) -> str:
        n, of = images(domain, "total", "", split), _thousands(str(patients.get((domain, "total", "", split), "")))
        return f"{n} ({of})" if n != "–" else n

    domains = [domain for domain in study.used_domains if domain in set(summary["domain"])]
    flow = [
        [domain, images(domain, "rows read", "", ""), *(both(domain, split) for split in ("all", *SPLITS))]
        for domain in domains
    ]
    excluded = summary[(summary["what"] == "excluded") & summary["domain"].isin(domains)]
    reasons = [[str(row.domain), _thousands(str(row.images)), str(row.value)] for row in excluded.itertuples()]
    positives = [
        [domain, split, *(images(domain, label, "positive", split) for label in LABELS)]
        for domain in domains
        for split in ("train", "test")
    ]
    return {
        "flow": Table(["domain", "rows read", "in the cohort", *SPLITS], flow),
        "excluded": Table(["domain", "images", "reason"], reasons),
        "positives": Table(["domain", "split", *(label.replace("_", " ") for label in LABELS)], positives),
    }


def _thousands(text: str) -> str:
    """A whole number with separators; `–` for nothing."""
    return f"{int(float(text)):,}" if text else "–"


def _privacy_table(runs: Sequence[Run]) -> Table:
    """What each DP run guarantees, from its privacy statement."""
    fields = {
        "epsilon": "ε spent",
        "delta": "δ",
        "num_units": f"{runs[0].unit if runs else 'unit'}s",
        "neighbouring_relation": "neighbours",
        "noise_multiplier": "noise multiplier",
        "max_grad_norm": "clipping norm",
        "sample_rate": "sample rate",
        "num_steps": "steps",
        "accountant": "accountant",
    }
    rows = []
    for run in runs:
        statement = run.privacy() or {}
        if run.private:
            rows.append([run.title, *(_value(statement.get(key)) for key in fields)])
            if not statement.get("complete", True):
                rows[-1][1] += " when complete"
    return Table(["model", *fields.values()], rows)


def _value(value: Any) -> str:
    """A value of a statement as text."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _paragraphs(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """Each run's statement in plain words."""
    statements = ((run.title, run.privacy() or {}) for run in runs)
    return [(title, str(found["paragraph"])) for title, found in statements if found.get("paragraph")]


def _other_releases(runs: Sequence[Run]) -> Table:
    """What else was let out of the private data, as the DP runs' statements say, each entry once."""
    columns = ["what", "source", "accounted"]
    found: dict[tuple[str, ...], None] = {}
    for run in runs:
        statement = (run.privacy() or {}) if run.private else {}
        for release in statement.get("other_releases") or []:
            found[tuple(str(release.get(column, "")) for column in columns)] = None
    return Table(["also let out", "where from", "is it in ε?"], [list(row) for row in found])


def _provenance(runs: Sequence[Run]) -> Table:
    """Which run folders the report rests on."""
    rows = []
    for run in runs:
        data = run.config.get("data", {})
        steps = f"{run.state.get('step', 0):,} of {run.config.get('num_steps', 0):,}"
        hashes = [str(data.get(key, ""))[:HASH_DIGITS] or "–" for key in ("split_sha256", "manifest_sha256")]
        rows.append([run.title, run.run_id, run.status, steps, *hashes])
    return Table(["model", "run", "status", "steps", "split SHA-256", "shards SHA-256"], rows)


def _versions(runs: Sequence[Run]) -> list[str]:
    """Software that the runs were made with, each combination once."""
    return sorted({", ".join(f"{k} {v}" for k, v in run.config.get("versions", {}).items()) for run in runs} - {""})
