"""`dpdt init`: a study file for a situation, with every key, its unit, its default and why one would change it."""

import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from dpdt.base.machine import __version__
from dpdt.errors import StudyError
from dpdt.study.domain_kinds import DOMAIN_KINDS
from dpdt.study.keys import REQUIRED, Key, all_keys, section_docs, toml
from dpdt.study.source import PRESETS, flat

__all__ = ["STARTERS", "Starter", "starter_text"]


@dataclass(frozen=True)
class Starter:
    """One situation.

    Attributes:
        what: In one line.
        domains: Names of the domains, unless the user names others.
        values: Keys that are set, by dotted name.
    """

    what: str
    domains: tuple[str, ...]
    values: Mapping[str, Any] = field(default_factory=dict)


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
        {
            "cluster.partition": "gpu",
            "cluster.gpus_per_task": 1,
            "cluster.cpus_per_task": 8,
            "cluster.mem_gb": 32.0,
            "cluster.timeout_min": 1440,
            "cluster.shard_tasks": 4,
        },
    ),
}
"""What `dpdt init --preset` offers."""

TABLE_VALUES: Final = {"file": "list.csv", "image": "image", "patient": "patient"}
HEAD: Final = """\
# A study of dpdt {version}: {what}.
#
# Every key is here, but for [models.<name>], other hospitals' models (docs/apart.md). `#size = 512` (no blank after the
# #) shows what holds as long as the line stays as it is: the default, or the preset's value. Remove the # to change it.
# What has no # is set.
#
#     dpdt show study.toml    what is in force, and where it comes from
#     dpdt plan study.toml    what it will do and cost, before anything is queued
#     dpdt submit study.toml  all stages; --cluster slurm sends them to a cluster
"""


def starter_text(preset: str, roots: Mapping[str, str] | None = None) -> str:
    """A study file.

    Args:
        preset: One of STARTERS.
        roots: Domains to have instead of the preset's, with their folders; a name that is no published institution's
            gets a table to fill in.

    Returns:
        TOML that loads as it is.

    Raises:
        StudyError: The preset is unknown.
    """
    if preset not in STARTERS:
        raise StudyError(f"--preset {preset}: unknown. Expected one of: {', '.join(STARTERS)}.")
    chosen = STARTERS[preset]
    domains = dict(roots) if roots else {name: DOMAIN_KINDS[_kind(name)].root for name in chosen.domains}
    keys, docs = all_keys(), section_docs()
    parts = [HEAD.format(version=__version__, what=chosen.what)]
    for section in [name for name in docs if "*" not in name]:
        parts.append(
            "\n".join(
                [
                    f"# ---- {docs[section][0].upper()}{docs[section][1:]}",
                    f"[{section}]",
                    *_lines(keys, section, chosen),
                ]
            )
        )
        if section == "study":
            parts += _domains(domains, keys, docs, chosen)
    return "\n\n".join(part.rstrip() for part in parts) + "\n"


def _kind(domain: str) -> str:
    return domain if domain in DOMAIN_KINDS else "table"


def _domains(domains: Mapping[str, str], keys: list[Key], docs: Mapping[str, str], chosen: Starter) -> Iterator[str]:
    """The tables of the domains: the first of a kind with all keys, the others with their folder."""
    explained = False
    for number, (name, root) in enumerate(domains.items()):
        kind = _kind(name)
        given = {"root": root, **({"kind": "table"} if kind == "table" else {})}
        head = ["# ---- One table an institution: its raw data, and the policies that read it."] if number == 0 else []
        layout = f"# {DOMAIN_KINDS[kind].content}"
        if number == 0:
            lines = list(_lines(keys, "domains.*", chosen, given))
        else:
            lines = [f"{key} = {toml(value)}" for key, value in given.items()]
        yield "\n".join([*head, f"[domains.{name}]", layout, *lines])
        if kind == "table":
            table = f"[domains.{name}.table]"
            values = [f"{key} = {toml(value)}" for key, value in TABLE_VALUES.items()]
            lines = values if explained else list(_lines(keys, "domains.*.table", chosen, TABLE_VALUES))
            explained = True
            labels = [
                f"[domains.{name}.table.labels]",
                "# Label = the column that holds it, or the names that it has in the findings column.",
                'cardiomegaly = { column = "cardiomegaly" }',
                'healthy = { column = "healthy", positive = ["1"], negative = ["0"], unknown = [""] }',
            ]
            yield "\n".join([table, *lines])
            yield "\n".join(labels)


def _lines(keys: list[Key], section: str, chosen: Starter, given: Mapping[str, Any] | None = None) -> Iterator[str]:
    """The lines of one table."""
    paper = flat(PRESETS[chosen.values["study.preset"]]) if "study.preset" in chosen.values else {}
    values = {**{f"{section}.{key}": value for key, value in (given or {}).items()}, **chosen.values}
    for key in keys:
        if key.section != section or key.name == "domains.*.table.labels":
            continue
        unit = f" Unit: {key.help.unit}." if key.help.unit else ""
        comment = f"{key.description}{unit} Why change it: {key.help.why}"
        yield from textwrap.wrap(comment, 118, initial_indent="# ", subsequent_indent="# ")
        if key.name in values:
            default = "required" if key.default is REQUIRED else _default(key)
            yield f"{key.short} = {toml(values[key.name])}  # {default}"
        elif key.name in paper:
            yield f"#{key.short} = {toml(paper[key.name])}  # of the preset; {_default(key)}"
        elif key.default is None:
            yield f"#{key.short} = {key.help.example}  # an example; not set by default"
        else:
            yield f"#{key.short} = {toml(key.default)}"


def _default(key: Key) -> str:
    return "not set by default" if key.default is None else f"default: {toml(key.default)}"
