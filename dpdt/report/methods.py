"""What authors paste: a methods paragraph with the study's own numbers and its references, and reporting checklists.

Items are in `checklists.toml`, shortened; the journals' own words count. dpdt fills what follows from the study's
files, and leaves to the authors what it cannot know.
"""

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from typing import Any, Final, NamedTuple

from dpdt.report.format import level, listed
from dpdt.report.names import domain_name, label_name, network_name
from dpdt.report.provenance import nameless
from dpdt.runs.read import Run, is_synthetic
from dpdt.study import Study

__all__ = ["Checklist", "Paper", "checklists", "markdown", "methods", "paper_of", "references"]

RECIPES: Final = {
    "area": "anti-aliased area resampling at native bit depth and rescaled to their minimum and maximum",
    "paper": "spline resampling of the grey image and rescaled to their minimum and maximum",
}
ACCOUNTANTS: Final = {
    "pld": ("privacy loss distributions", "doroshenko2022"),
    "prv": ("privacy random variables", "gopi2021"),
    "rdp": ("Rényi differential privacy", "mironov2019"),
}
EXACT: Final = ("the exact formula of one Gaussian mechanism", "balle2018")
OPTIMIZERS: Final = {
    "nadam": "NAdam [dozat2016]",
    "adamw": "AdamW [loshchilov2019]",
    "sgd": "SGD with momentum",
    "closed-form": "ridge regression on noisy moments of the features, in closed form [mehta2023]",
    "adam-corrected": "Adam with its second moment freed from the noise [tang2023]",
}
AVERAGES: Final = {
    "ema": "The weights are an exponential average over the steps",
    "tail": "The weights are the mean over the last quarter of the steps",
}
SOURCES: Final = {
    "chestxray14": "wang2017",
    "chexpert": "irvin2019",
    "padchest": "bustos2020",
    "vindr": "nguyen2022",
}


class Checklist(NamedTuple):
    """A reporting guideline with what the study says to each item: item, topic, from the study, chapter, authors."""

    name: str
    title: str
    source: str
    items: Sequence[tuple[str, str, str, str, str]]


def facts(study: Study, runs: Sequence[Run], people: str) -> dict[str, str]:
    """The study in words, for the paragraph and the checklists."""
    train, privacy, evaluate, shards = study.train, study.privacy, study.evaluate, study.shards
    private = [run for run in runs if run.private]
    statements = [run.privacy() or {} for run in private]
    deltas = sorted({float(s["delta"]) for s in statements if s.get("delta")})
    epsilons = sorted({run.target_epsilon for run in private})
    versions = sorted({f"{k} {v}" for run in runs for k, v in run.config.get("versions", {}).items()})
    labels = [label_name(label) for label in study.study.labels]
    accountant, account_key = EXACT if train.closed_form else ACCOUNTANTS[privacy.accountant]
    return {
        "images": "synthetic images in the place of radiographs" if is_synthetic(study) else "radiographs",
        "trained": listed([domain_name(domain) for domain in study.train_domains]),
        "tested": listed([domain_name(domain) for domain in study.test_domains]),
        "public": listed([domain_name(domain) for domain in study.public_domains]),
        "labels": listed(labels) if len(labels) <= 8 else f"{len(labels)} labels",
        "people": people or "numbers of patients are not known yet",
        "network": network_name(study.model.name),
        "channels": "1 input channel" if study.model.in_channels == 1 else f"{study.model.in_channels} input channels",
        "size": str(shards.size),
        "recipe": RECIPES[shards.recipe] + (", then equalised by histogram" if shards.equalise else ""),
        "course": _course(study),
        "private": f"the Gaussian mechanism once for each {privacy.unit}, on sums of bounded moments of the features"
        if train.closed_form
        else f"DP-SGD [abadi2016] with Poisson sampling, for each {privacy.unit}: gradients were clipped to a norm of "
        f"{privacy.max_grad_norm:g}, Gaussian noise was added",
        "further": " ".join(_further(study)),
        "compared": " ".join(_compared(study)),
        "nameless": _nameless(nameless(runs)),
        "seeds": f"seed{'s' if len(train.seeds) > 1 else ''} {listed([str(seed) for seed in train.seeds])}",
        "unit": privacy.unit,
        "epsilons": listed([f"{epsilon:g}" for epsilon in epsilons]) or "none yet",
        "deltas": listed([f"{delta:.2g}" for delta in deltas]) or "not known yet",
        "accountant": accountant,
        "account_key": account_key,
        "confidence": level(evaluate.confidence),
        "draws": f"{evaluate.bootstrap_draws:,}",
        "resampled": f"{evaluate.bootstrap_unit}s",
        "margin": f"{evaluate.equivalence_margin:g}",
        "minimum": str(evaluate.min_subgroup_size),
        "weights": str(train.class_weights if isinstance(train.class_weights, str) else "given by label"),
        "versions": ", ".join(versions) or "not known yet",
        "start": _start(study),
    }


def _course(study: Study) -> str:
    train = study.train
    if train.closed_form:
        return OPTIMIZERS[train.optimizer]
    batch = f"a part of {train.sample_rate:g}" if train.sample_rate else str(train.expected_batch_size)
    return (
        f"{train.num_epochs:g} epochs of {OPTIMIZERS[train.optimizer]} at a learning rate of {train.learning_rate:g} "
        f"with an expected batch of {batch} of the {study.privacy.unit}s"
    )


def _start(study: Study) -> str:
    given = "" if study.model.init_weights is None else f"the weights {study.model.init_weights.name}"
    if study.public_domain is None:
        return given or "random weights"
    return (
        f"the public pretraining on {domain_name(study.public_domain)}{f', which began from {given}' if given else ''}"
    )


def _further(study: Study) -> Iterator[str]:
    """Sentences on what most studies leave as it is."""
    train = study.train
    if study.fraction < 1:
        yield f"Trained on: {study.fraction:.4g} of each hospital's training patients."
    if train.parameters != "all":
        chosen = train.parameters if isinstance(train.parameters, str) else ", ".join(train.parameters)
        yield f"Only a part of the parameters was trained ({chosen})."
    if train.head_first:
        yield f"In the first {100 * train.head_first:g}% of the steps the last layer alone was trained [kumar2022]."
    if train.full_learning_rate_at and not train.closed_form:
        yield (
            "With DP the learning rate was multiplied with the expected batch over the noise multiplier and "
            f"{train.full_learning_rate_at:g}, where that is less than 1."
        )
    if train.warm_up or train.schedule != "constant":
        falls = ", then fell by a cosine" if train.schedule == "cosine" else ""
        yield f"The learning rate rose over {100 * train.warm_up:g}% of the steps{falls}."
    if train.views > 1:
        yield f"Of a drawn image {train.views} random views were made, whose mean gradient was clipped once [de2022]."
    if train.averaging != "none":
        yield f"{AVERAGES[train.averaging]}."
    if study.privacy.clip_factor == "automatic":
        yield "Clipping was automatic [bu2023]: every gradient was scaled to about the norm."
    if study.privacy.clip_scope == "layers":
        yield "Each layer's gradient was clipped by itself, to the norm over the root of the layers' number [he2022]."
    if study.privacy.clip_factor == "quantile":
        yield "The norm followed the middle of the gradients' norms, counted with noise that ε covers [andrew2021]."


def _compared(study: Study) -> Iterator[str]:
    """Sentences on comparisons beside the one with the models without DP."""
    if not study.why_no_before:
        yield (
            "Each model was also compared with the one that it began from; its gain over that, and the share of the "
            "gain that DP keeps, are of mean macro AUC over the same pairs of a model and a hospital."
        )
    if len(study.train_domains) > 1 and set(study.train_domains) & set(study.test_domains):
        yield (
            "By test hospital, AUCs of the other hospitals' models with and without DP were compared by Student's "
            "paired t test over labels and training hospitals."
        )


def _nameless(domains: Sequence[str]) -> str:
    """What "no patient" means where a hospital does not tell its patients apart."""
    names = listed([domain_name(domain) for domain in domains])
    return f" (of {names}, where each image counts as a patient, that is known of images alone)" if domains else ""


def _file(name: str) -> str:
    return files("dpdt.report").joinpath(name).read_text(encoding="utf-8")


def methods(study: Study, runs: Sequence[Run], people: str) -> str:
    """A paragraph for a paper, with keys of `references` in square brackets."""
    own = {d: f" [{SOURCES[d]}]" for d in study.train_domains if d in SOURCES and study.kind(d) == d}
    text = " ".join(_file("methods.txt").split())
    known = facts(study, runs, people)
    known["trained"] = listed([f"{domain_name(d)}{own.get(d, '')}" for d in study.train_domains])
    return " ".join(text.format_map(known).split())  # without further sentences there are two spaces


def references(text: str) -> str:
    """BibTeX of what a text cites, in the file's order."""
    entries = re.split(r"(?m)^(?=@)", _file("references.bib"))
    cited = set(re.findall(r"\[([a-z]+\d{4})\]", text))
    return "\n".join(entry.strip() for entry in entries if (m := re.match(r"@\w+\{(\w+),", entry)) and m[1] in cited)


def checklists(study: Study, runs: Sequence[Run], people: str) -> list[Checklist]:
    """TRIPOD+AI and CLAIM with the study's answers."""
    data: Mapping[str, Any] = tomllib.loads(_file("checklists.toml"))
    known = facts(study, runs, people)
    return [
        Checklist(
            name,
            one["title"],
            one["source"],
            [
                (
                    i["item"],
                    i["topic"],
                    i.get("study", "").format_map(known),
                    i.get("chapter", ""),
                    i.get("authors", ""),
                )
                for i in one["items"]
            ],
        )
        for name, one in data.items()
    ]


class Paper(NamedTuple):
    """What authors paste."""

    text: str
    lists: Sequence[Checklist]

    def files(self) -> dict[str, str]:
        """By name: the paragraph, its references, and each checklist in Markdown."""
        lists = {f"{one.name}.md": markdown(one) for one in self.lists}
        return {"methods.txt": f"{self.text}\n", "references.bib": f"{references(self.text)}\n", **lists}


def paper_of(study: Study, runs: Sequence[Run], people: str) -> Paper:
    """The study's paragraph and checklists; `people` is how many patients took part, in words."""
    return Paper(methods(study, runs, people), checklists(study, runs, people))


def markdown(one: Checklist) -> str:
    """A checklist as a table in Markdown, which Pandoc turns into a DOCX."""
    columns = ["item", "topic", "from the study", "where", "for the authors to write", "page or section"]
    lines = [f"# {one.title}", "", f"Source: {one.source}. Topics are shortened: the guideline's own words count.", ""]
    lines += [f"| {' | '.join(columns)} |", "|" + " --- |" * len(columns)]
    for row in one.items:
        cells = [f"[report](index.html#{cell})" if n == 3 and cell else cell for n, cell in enumerate(row)]
        cells.append("")
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(lines) + "\n"
