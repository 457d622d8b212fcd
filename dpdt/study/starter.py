"""`dpdt init`: a study file for a situation, with the keys that people change; the reference has all of them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from dpdt.base.machine import __version__
from dpdt.errors import StudyError
from dpdt.study.domain_kinds import DOMAIN_KINDS
from dpdt.study.keys import REQUIRED, Key, all_keys, section_docs, toml, toml_key
from dpdt.study.source import PRESETS, flat

__all__ = ["SHOWN", "STARTERS", "Starter", "starter_text"]


@dataclass(frozen=True)
class Starter:
    """One situation.

    Attributes:
        what: In one line.
        domains: Names of the domains, unless the user names others.
        values: Keys that are set, by dotted name.
        examples: Keys that would win over the cluster's profile: shown with these values, and not set.
    """

    what: str
    domains: tuple[str, ...]
    values: Mapping[str, Any] = field(default_factory=dict)
    examples: Mapping[str, Any] = field(default_factory=dict)


SHOWN: Final = (
    *("study.name", "study.folder", "study.seed", "domains.*.root", "domains.*.kind"),
    *("domains.*.image_folders", "domains.*.missing_images", "domains.*.unknown_views", "domains.*.test_fraction"),
    *("domains.*.table.file", "domains.*.table.images", "domains.*.table.image", "domains.*.table.patient"),
    *("domains.*.table.view", "domains.*.table.sex", "domains.*.table.age", "domains.*.table.separator"),
    *("shards.size", "shards.equalise", "shards.max_reject_fraction", "model.width", "model.init_weights"),
    *("train.num_epochs", "train.expected_batch_size", "train.learning_rate", "train.seeds"),
    *("privacy.target_epsilons", "privacy.delta", "privacy.unit", "privacy.max_grad_norm"),
    *("evaluate.bootstrap_draws", "tracking.uri", "cluster.profile", "cluster.partition", "cluster.gpus_per_task"),
    *("cluster.cpus_per_task", "cluster.mem_gb", "cluster.timeout_min"),
)
"""Keys that a new study file has besides those that it sets: what people change. The reference has every key."""

ALL: Final = tuple(kind for kind in DOMAIN_KINDS if kind != "table")
STARTERS: Final = {
    "paper": Starter("the paper's recipe, network and training", ALL, {"study.preset": "paper"}),
    "quick": Starter(
        "a first look at one hospital, in minutes on a laptop",
        ("chestxray14",),
        {
            "shards.size": 64,
            "model.width": 16,
            "train.num_epochs": 10,
            "train.expected_batch_size": 8,
            "train.learning_rate": 1e-3,
            "privacy.target_epsilons": (8.0, float("inf")),
            "privacy.delta": 1e-3,
            "evaluate.bootstrap_draws": 200,
        },
    ),
    "own-hospital": Starter("a hospital with its own list of images", ("own",)),
    "slurm": Starter(
        "all hospitals on a cluster with GPUs",
        ALL,
        {"cluster.profile": "generic", "cluster.shard_tasks": 4},
        {
            "cluster.partition": "gpu",
            "cluster.gpus_per_task": 1,
            "cluster.cpus_per_task": 8,
            "cluster.mem_gb": 32.0,
            "cluster.timeout_min": 1440,
        },
    ),
}
"""What `dpdt init --preset` offers."""

LONG: Final = 60
TABLE_VALUES: Final = {"file": "list.csv", "image": "image", "patient": "patient"}
HEAD: Final = """\
# A study of dpdt {version}: {what}.
# The keys that people change; the reference in the documentation has all {count}. A line `#size = 512` (no blank after
# the #) shows what holds as long as it stays so; remove the # to change it.
#
#     dpdt show study.toml    what is in force, and where it comes from
#     dpdt plan study.toml    what it will do and cost, before anything is queued
#     dpdt submit study.toml  all stages; --cluster slurm sends them to a cluster
"""
LABELS: Final = """\
# Label = the column that holds it, or the names that it has in the findings column.
cardiomegaly = { column = "cardiomegaly" }
healthy = { column = "healthy", positive = ["1"], negative = ["0"], unknown = [""] }"""


def starter_text(preset: str, roots: Mapping[str, str] | None = None, own: str = "") -> str:
    """A study file.

    Args:
        preset: One of STARTERS.
        roots: Domains to have instead of the preset's, with their folders; a name that is no published institution's
            gets a table to fill in.
        own: The tables of a domain with a list of its own, instead of the preset's domains.

    Returns:
        TOML; it loads as it is, unless `own` has lines to confirm.

    Raises:
        StudyError: The preset is unknown.
    """
    if preset not in STARTERS:
        raise StudyError(f"--preset {preset}: unknown. Expected one of: {', '.join(STARTERS)}.")
    chosen = STARTERS[preset]
    names = () if own and not roots else chosen.domains
    domains = dict(roots) if roots else {name: DOMAIN_KINDS[_kind(name)].root for name in names}
    keys = all_keys()
    parts = [HEAD.format(version=__version__, what=chosen.what, count=len(keys))]
    for section in [name for name in section_docs() if "*" not in name]:
        lines = list(_lines(keys, section, chosen))
        if lines:
            parts.append("\n".join([f"[{section}]", *lines]))
        if section == "study":
            parts += [*_domains(domains, keys, chosen), *([own] if own else [])]
    return "\n\n".join(part.rstrip() for part in parts) + "\n"


def _kind(domain: str) -> str:
    return domain if domain in DOMAIN_KINDS else "table"


def _domains(domains: Mapping[str, str], keys: list[Key], chosen: Starter) -> Iterator[str]:
    """The tables of the domains: the first with its keys, the others with their folder."""
    explained = False
    for number, (name, root) in enumerate(domains.items()):
        kind = _kind(name)
        given = {"root": root, **({"kind": "table"} if kind == "table" else {})}
        lines = [f"{key} = {toml(value)}" for key, value in given.items()]
        if number == 0:
            lines = list(_lines(keys, "domains.*", chosen, given))
        table = f"domains.{toml_key(name)}"
        yield "\n".join([f"[{table}]", f"# {DOMAIN_KINDS[kind].content}", *lines])
        if kind == "table":
            values = [f"{key} = {toml(value)}" for key, value in TABLE_VALUES.items()]
            lines = values if explained else list(_lines(keys, "domains.*.table", chosen, TABLE_VALUES))
            explained = True
            yield "\n".join([f"[{table}.table]", *lines])
            yield f"[{table}.table.labels]\n{LABELS}"


def _lines(keys: list[Key], section: str, chosen: Starter, given: Mapping[str, Any] | None = None) -> Iterator[str]:
    """The lines of one table, a key each."""
    paper = flat(PRESETS[chosen.values["study.preset"]]) if "study.preset" in chosen.values else {}
    values = {**{f"{section}.{key}": value for key, value in (given or {}).items()}, **chosen.values}
    for key in keys:
        if key.section != section or (key.name not in SHOWN and key.name not in values):
            continue
        said = key.description.split(". ")[0].rstrip(".")
        said = said if len(said) <= LONG else said.split("; ")[0].split(": ")[0]
        said = said.partition(" (")[0] if said.count("(") > said.count(")") else said
        about = f"{said}; {_default(key)}" if key.name in values and key.default is not REQUIRED else said
        if key.name in values:
            yield f"{key.short} = {toml(values[key.name])}  # {about}"
        elif key.name in chosen.examples:
            yield f"#{key.short} = {toml(chosen.examples[key.name])}  # {said}; wins over the profile; an example"
        elif key.name in paper:
            yield f"#{key.short} = {toml(paper[key.name])}  # {said}; of the preset, {_default(key)}"
        elif key.default is None:
            yield f"#{key.short} = {key.help.example}  # {said}; an example"
        else:
            yield f"#{key.short} = {toml(key.default)}  # {said}"


def _default(key: Key) -> str:
    return "not set by default" if key.default is None else f"default: {toml(key.default)}"
