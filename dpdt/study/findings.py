"""What the published domains' lists call their findings, and which findings make a label there.

A label is defined a domain: by `[labels.<label>] <domain> = […]` of the study file, else by the definitions below (the
paper's five), else by its own name: `nodule_mass` is the finding "Nodule/Mass". A label without a definition is unknown
in every image of the domain.

In PadChest's tree a finding has those below it, as its authors count; `sublabels` and the paper's five name findings
one by one. UKA's findings are grades: a definition may have its cut, "congestion >= 2".
"""

import functools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.resources import files
from typing import Final, NamedTuple

from dpdt.base.vocabulary import HEALTHY, as_name
from dpdt.study.explain import did_you_mean

__all__ = [
    "CHEXPERT_FINDINGS",
    "DEFINITIONS",
    "NO_FINDING",
    "UKA_GRADES",
    "Definition",
    "Finding",
    "define",
    "findings_of",
    "padchest_tree",
    "suggestions",
]


class Finding(NamedTuple):
    """A finding in a list's own words; of grades from `at_least` on (None: the list's own cut)."""

    name: str
    at_least: int | None = None


Definition = tuple[Finding, ...]
"""A label is positive where one of these is; () where the list has no such label."""

NO_FINDING: Final = "no finding"
"""UKA's list has no such column: an image is healthy if all its grades are none."""

# Wang et al., CVPR 2017 (eight), and the files of the NIH Clinical Center (fourteen).
CHESTXRAY14_FINDINGS: Final = (
    *("Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumonia", "Pneumothorax"),
    *("Consolidation", "Edema", "Emphysema", "Fibrosis", "Pleural_Thickening", "Hernia", "No Finding"),
)
# Irvin et al., AAAI 2019, table 1; MIMIC-CXR-JPG has the labels of the same program (Johnson et al. 2019).
CHEXPERT_FINDINGS: Final = (
    *("No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema"),
    *("Consolidation", "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other", "Fracture"),
    "Support Devices",
)
# Nguyen et al., Scientific Data 2022, table 1: 22 local findings, 6 diagnoses.
VINDR_FINDINGS: Final = (
    *("Aortic enlargement", "Atelectasis", "Calcification", "Cardiomegaly", "Clavicle fracture", "Consolidation"),
    *("Edema", "Emphysema", "Enlarged PA", "ILD", "Infiltration", "Lung Opacity", "Lung cavity", "Lung cyst"),
    *("Mediastinal shift", "Nodule/Mass", "Pleural effusion", "Pleural thickening", "Pneumothorax"),
    *("Pulmonary fibrosis", "Rib fracture", "Other lesion", "COPD", "Lung tumor", "Pneumonia", "Tuberculosis"),
    *("Other diseases", "No finding"),
)
# The columns of the group's published code; a finding is graded on each side where it has two.
UKA_GRADES: Final = {
    "cardiomegaly": ("cardiomegaly",),
    "congestion": ("congestion",),
    "pleural effusion": ("pleural_effusion_right", "pleural_effusion_left"),
    "pneumonic infiltrates": ("pneumonic_infiltrates_right", "pneumonic_infiltrates_left"),
    "atelectasis": ("atelectasis_right", "atelectasis_left"),
}

HEALTHY_FINDINGS: Final = {
    "chestxray14": ("No Finding",),
    "chexpert": ("No Finding",),
    "mimic": ("No Finding",),
    "vindr": ("No finding",),
    "uka": (NO_FINDING,),
    "padchest": ("normal",),
}
DEFINITIONS: Final[Mapping[str, Mapping[str, tuple[str, ...]]]] = {
    "pleural_effusion": {
        "chestxray14": ("Effusion",),
        "padchest": ("pleural effusion", "loculated pleural effusion", "loculated fissural effusion"),
    },
    "pneumonia": {"uka": ("pneumonic infiltrates",)},
    **dict.fromkeys(HEALTHY, HEALTHY_FINDINGS),
}
"""Label -> kind -> findings, where a label is not the finding of its name (in PadChest: with those below it). Of
PadChest's effusions those with air, pus or blood are left out: with these sets 5.6 % of its frontal rows have
atelectasis, as in the paper's test set (1,240 of 22,045); with `atelectasis` alone it would be 2.0 %."""

CUT: Final = re.compile(r"(.*?)\s*>=\s*(\S*)")
UKA_CUTS: Final = (1, 2, 3, 4)


@functools.cache
def padchest_tree() -> Mapping[str, tuple[str, ...]]:
    """Each of PadChest's findings, and itself with all below it, in the tree's order."""
    lines = files("dpdt.study").joinpath("padchest_findings.txt").read_text(encoding="utf-8").splitlines()
    found: dict[str, dict[str, None]] = {}
    above: list[str] = []
    for line in (line for line in lines if not line.startswith("#")):
        name = line.strip()
        above = [*above[: (len(line) - len(name)) // 2], name]
        found.setdefault(name, {})
        for parent in above:
            found[parent][name] = None
    return {name: tuple(below) for name, below in found.items()}


def findings_of(kind: str) -> tuple[str, ...]:
    """What a published layout's lists have, in their words and order; () for a list of one's own."""
    of_kinds = {
        "chestxray14": CHESTXRAY14_FINDINGS,
        "chexpert": CHEXPERT_FINDINGS,
        "mimic": CHEXPERT_FINDINGS,
        "vindr": VINDR_FINDINGS,
        "uka": (*UKA_GRADES, NO_FINDING),
    }
    return tuple(padchest_tree()) if kind == "padchest" else of_kinds.get(kind, ())


def define(label: str, kind: str, *, given: Sequence[str] = (), exact: Sequence[str] = ()) -> Definition:
    """What makes a label in a published domain.

    Args:
        label: Its name.
        kind: The domain's layout.
        given: Findings that the study file names in `[labels.<label>]`.
        exact: PadChest's `sublabels` of it.

    Returns:
        The findings, () where the layout has none of that name.

    Raises:
        ValueError: A given finding is none of the layout's.
    """
    if given:
        return tuple(dict.fromkeys(one for text in given for one in _named(text, label, kind)))
    if exact:
        return tuple(map(Finding, exact))
    shipped = DEFINITIONS.get(label, {}).get(kind)
    if shipped:
        return tuple(map(Finding, shipped))
    own = _by_name(kind).get(label)
    return () if own is None else _with_below(own, kind)


def suggestions(label: str, kinds: Iterable[str]) -> str:
    """What to write for a label that no domain has: another spelling, and findings with a word of it."""
    names = {name for kind in kinds for name in _by_name(kind)}
    hint = did_you_mean(label, [*names, *DEFINITIONS], diagnoses=True)
    words = {word for word in label.split("_") if len(word) > 3}
    akin = sorted(name for name in names if words & {*name.split("_")})[:6]
    return hint + (f" Findings with a word of it: {', '.join(akin)}." if akin and not hint else "")


def _named(text: str, label: str, kind: str) -> Iterator[Finding]:
    """The findings that one text of `[labels.<label>]` names."""
    cut = CUT.fullmatch(text.strip())
    wanted, at_least = (cut[1] or label, _grade(text, cut[2])) if cut else (text, None)
    if cut and kind != "uka":
        raise ValueError(f"{text!r}: a cut (>=) belongs to grades, and the lists of {kind} have none. Name findings")
    known = _by_name(kind)
    shipped = DEFINITIONS.get(label, {}).get(kind, ()) if cut and not cut[1] else ()
    names = shipped or ([known[as_name(wanted)]] if as_name(wanted) in known else [])
    if not names:
        hint = did_you_mean(wanted, known.values(), diagnoses=True)
        raise ValueError(f"{text!r} is no finding of {kind}.{hint} `dpdt domains` lists them")
    if NO_FINDING in names and at_least is not None:
        raise ValueError(f"{text!r}: {NO_FINDING} has no grade, it is that all grades are none")
    for name in names:
        yield from (one._replace(at_least=at_least) for one in _with_below(name, kind))


def _grade(text: str, number: str) -> int:
    if number not in map(str, UKA_CUTS):
        raise ValueError(f"{text!r}: expected a grade from {UKA_CUTS[0]} to {UKA_CUTS[-1]} after >=")
    return int(number)


@functools.cache
def _by_name(kind: str) -> Mapping[str, str]:
    """The finding of each label's name."""
    return {as_name(finding): finding for finding in findings_of(kind)}


def _with_below(name: str, kind: str) -> Definition:
    return tuple(map(Finding, padchest_tree()[name] if kind == "padchest" else (name,)))
