"""Several hospitals' results as one report: hospitals × hospitals, what is missing, and what was not done alike."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import pandas as pd

from dpdt.base.console import printable
from dpdt.errors import BundleError
from dpdt.evaluation.metrics import ALL, AVERAGE
from dpdt.report.apart.file import OWN_LIST, AucRow, Model, Pair, Results
from dpdt.report.format import Table
from dpdt.report.from_csv import read_auc_table, write_auc_report
from dpdt.report.page import Source
from dpdt.study import arm_name

__all__ = ["combine", "combined_auc", "disagreements", "models_of"]

MOST_SHOWN: Final = 1000
"""Characters of a value that differs: a page is for people."""
CELL: Final = ["target_epsilon", "label", "subgroup", "train_domain", "test_domain"]


def combine(results: Sequence[Results], folder: Path) -> Path:
    """Write the report of several hospitals' results.

    Args:
        results: Of one hospital each.
        folder: Where the report goes.

    Returns:
        The page.

    Raises:
        BundleError: Two are of the same test domain, or there is no number in them.
    """
    told = disagreements(results)
    results = _under_one_name(results)
    frame = combined_auc(results)
    if frame.empty:
        raise BundleError("no AUC in these results: every cell was too small to leave its hospital.")
    places = {name: number for number, name in enumerate(dict.fromkeys(frame["test_domain"]))}
    ordered = frame.sort_values("train_domain", key=lambda c: c.map(places).fillna(len(places)), kind="stable")
    auc, grid = read_auc_table(ordered, "results", typed=False)
    models = _models(results)
    further = {"The models and their guarantees": Table(list(models.columns), models.astype(str).to_numpy().tolist())}
    source = Source(
        name=", ".join(result.site for result in results),
        intervals=True,
        synthetic=any(result.synthetic for result in results),
        missing=_missing(frame),
        disagreements=told,
        tables=further,
        csv={"models": models, "pairs": pd.DataFrame([pair.model_dump() for r in results for pair in r.pairs])},
    )
    return write_auc_report(auc, grid, folder, name=f"{len(results)} hospitals apart", source=source)


def combined_auc(results: Sequence[Results]) -> pd.DataFrame:
    """All AUCs as `dpdt report --from-csv` reads them; of several seeds the means.

    Models before all trainings are left out where they are not the same everywhere.

    Raises:
        BundleError: Two files have the same test domain, or are of hospitals of the same name.
    """
    domains = [domain for result in results for domain in sorted({row.test_domain for row in result.auc})]
    twice = next((domain for domain in domains if domains.count(domain) > 1), None)
    if twice:
        raise BundleError(
            f"two results are of the test domain {twice}. Give one, or have one made with another --site."
        )
    sites = [result.site for result in results]
    same = next((site for site in sites if sites.count(site) > 1), None)
    if same:
        raise BundleError(f"two results are of {same}. Give one, or have one made with another --site.")
    rows = [
        {**row.model_dump(), "train_domain": model.train_domain, "target_epsilon": _epsilon(model.target_epsilon)}
        for model, found in models_of(results)
        for row in found
        if model.target_epsilon != 0 or _one_before(results)
    ]
    if not rows:
        return pd.DataFrame(columns=[*CELL, "auc"])
    table = pd.DataFrame(rows).astype(dict.fromkeys(("auc", "ci_low", "ci_high", "n"), "float64"))
    means = {"auc": "mean", "ci_low": "mean", "ci_high": "mean", "n": "max", "labels": "first"}
    found: pd.DataFrame = table.groupby(CELL, sort=False, as_index=False).agg(means)
    return found


def _under_one_name(results: Sequence[Results]) -> list[Results]:
    """Results in which a model, known by its weights, has the name of the hospital that trained it everywhere.

    A bundle may name its hospital otherwise than the results do that come from there.
    """
    trained = [model for result in results for model in result.models if model.target_epsilon != 0]
    names: dict[str, str] = {}
    for model in sorted(trained, key=lambda one: one.carried):
        names.setdefault(model.weights_sha256, model.train_domain)
    found = []
    for result in results:
        cells = {_cell(m): names.get(m.weights_sha256, m.train_domain) for m in result.models}
        models, pairs = (
            [one.model_copy(update={"train_domain": cells.get(_cell(one), one.train_domain)}) for one in listed]
            for listed in (result.models, result.pairs)
        )
        found.append(result.model_copy(update={"models": models, "pairs": pairs}))
    return found


def _cell(one: Model | Pair) -> tuple[str, float | None, int]:
    return one.train_domain, one.target_epsilon, one.seed


def models_of(results: Sequence[Results]) -> list[tuple[Model, list[AucRow]]]:
    """Every model once, with its AUCs at all hospitals.

    What has the same weights is one model, whatever its name; it has that of the hospital that trained it.
    """
    found: dict[tuple[Any, ...], tuple[Model, list[AucRow]]] = {}
    for result in _under_one_name(results):
        of_model: dict[int, list[AucRow]] = {}
        for row in result.auc:
            of_model.setdefault(row.model, []).append(row)
        for model in result.models:
            key = (model.train_domain, model.target_epsilon, model.seed, model.weights_sha256)
            found.setdefault(key, (model, []))[1].extend(of_model.get(model.model, ()))
    return list(found.values())


def disagreements(results: Sequence[Results]) -> list[str]:
    """What was not the same at the hospitals, in words."""
    return [printable(line) for line in _differences(results)]


def _differences(results: Sequence[Results]) -> Iterator[str]:
    told: list[tuple[str, dict[str, Any]]] = [
        ("labels", {r.site: ", ".join(r.labels) for r in results}),
        ("smallest number of patients behind a cell", {r.site: r.minimum for r in results}),
        ("made-up data", {r.site: r.synthetic for r in results}),
    ]
    sections = {
        "labels' policy": {domain: policy for r in results for domain, policy in r.policies.items()},
        "preprocessing": {r.site: r.input for r in results},
        "version": {r.site: dict(r.versions) for r in results},
        "evaluation": {r.site: r.evaluation for r in results},
    }
    for what, of_sites in sections.items():
        for key in sorted({key for values in of_sites.values() for key in values}):
            told += [(f"{what}, {key}", {site: values.get(key) for site, values in of_sites.items()})]
    for what, values in told:
        if len({str(value) for value in values.values()}) > 1:
            yield f"{what}: {', '.join(f'{str(value)[:MOST_SHOWN]} at {site}' for site, value in values.items())}"
    yield from _of_labels(results)
    for result in results:
        if result.privacy:
            yield (
                f"noise: the numbers of {result.site} have noise, which their intervals include: epsilon "
                f"{result.privacy.epsilon:g}, delta {result.privacy.delta:g} for its test patients. Each patient "
                "weighs the same, scores are in bins. Not to be made: groups, comparisons of two models on the same "
                "patients, permutation tests, equivalence"
            )
    for result in results:
        if result.signer not in ("", result.site):
            yield f"signature: the results of {result.site} are signed by {result.signer}"
    whole = _under_one_name(results)
    for result, renamed in zip(results, whole, strict=True):
        names = {old.train_domain: new.train_domain for old, new in zip(result.models, renamed.models, strict=True)}
        for old, new in names.items():
            if old != new:
                yield f"models {old} of {result.site}: their weights are those of {new}, so they have that name here"
    yield from _of_models(whole)


def _of_labels(results: Sequence[Results]) -> Iterator[str]:
    """Labels that are not made of the same findings; those of lists that stay at home in one line."""
    of_domains = {domain: texts for result in results for domain, texts in result.definitions.items()}
    unseen: dict[str, None] = {}
    for label in dict.fromkeys(label for texts in of_domains.values() for label in texts):
        found = {domain: texts[label] for domain, texts in of_domains.items() if label in texts}
        if len(set(found.values())) < 2:
            continue
        if any(text.startswith(OWN_LIST) for text in found.values()):
            unseen[label] = None
        else:
            yield f"definition, {label}: {'; '.join(f'{text} at {domain}' for domain, text in found.items())}"
    if unseen:
        domains = [d for d, texts in of_domains.items() if any(text.startswith(OWN_LIST) for text in texts.values())]
        yield (
            f"definition of {len(unseen)} labels, from a list of one's own that stays at {', '.join(domains)}: ask "
            f"what is meant by {', '.join(unseen)}"
        )


def _of_models(results: Sequence[Results]) -> Iterator[str]:
    """Models of one name that are not the same model, or whose statements differ."""
    seen: dict[Any, dict[str, Any]] = {}
    seeds: dict[str, dict[str, list[int]]] = {}
    units = {model.unit for r in results for model in r.models if model.epsilon is not None}
    if len(units) > 1:
        yield f"privacy unit of the models: {', '.join(sorted(units))}"
    for result in results:
        for model in result.models:
            arm = f"{model.train_domain}, {arm_name(_epsilon(model.target_epsilon))}"
            seeds.setdefault(arm, {}).setdefault(result.site, []).append(model.seed)
            name = f"{arm}, seed {model.seed}"
            for what in ("weights_sha256", "epsilon", "delta"):
                seen.setdefault((name, what), {})[result.site] = getattr(model, what)
    for (name, what), of_sites in seen.items():
        if len(set(of_sites.values())) > 1:
            shown = {site: str(value)[:12] for site, value in of_sites.items()}
            yield f"model {name}: {what} is {', '.join(f'{value} at {site}' for site, value in shown.items())}"
    for arm, tested in seeds.items():
        if len({str(sorted(found)) for found in tested.values()}) > 1:
            listed = "; ".join(f"{', '.join(map(str, sorted(found)))} at {site}" for site, found in tested.items())
            yield f"seeds of the model {arm}, whose mean is shown: {listed}"
    if not _one_before(results):
        yield "the models before all trainings are not the same, so none is shown"


def _one_before(results: Sequence[Results]) -> bool:
    """Whether all hospitals mean the same model by `before`."""
    found = {model.weights_sha256 for r in results for model in r.models if model.target_epsilon == 0}
    return len(found) < 2


def _missing(frame: pd.DataFrame) -> list[tuple[str, str]]:
    """Pairs of a model and a test domain without a macro AUC."""
    there = frame[(frame["label"] == AVERAGE) & (frame["subgroup"] == ALL)]
    known = set(zip(there["target_epsilon"], there["train_domain"], there["test_domain"], strict=True))
    trained = list(dict.fromkeys(zip(frame["target_epsilon"], frame["train_domain"], strict=True)))
    tested = list(dict.fromkeys(frame["test_domain"]))
    return [
        (f"{domain}, {arm_name(epsilon)}", f"no number on {test}")
        for epsilon, domain in trained
        for test in tested
        if (epsilon, domain, test) not in known
    ]


def _models(results: Sequence[Results]) -> pd.DataFrame:
    """Every model once, with its guarantee."""
    rows = [
        {
            "trained on": model.train_domain,
            "model": arm_name(_epsilon(model.target_epsilon)),
            "seed": model.seed,
            "epsilon": "none" if model.epsilon is None else f"{model.epsilon:.4g}",
            "delta": "none" if model.delta is None else f"{model.delta:g}",
            "unit": model.unit,
            "weights": model.weights_sha256[:12],
        }
        for result in results
        for model in result.models
    ]
    return pd.DataFrame(rows).drop_duplicates(ignore_index=True)


def _epsilon(value: float | None) -> float:
    return math.inf if value is None else value
