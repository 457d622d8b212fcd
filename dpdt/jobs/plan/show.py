"""The plan as tables, and as JSON."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from dpdt.base.console import show_table, warn
from dpdt.jobs.plan.outlook import CellOutlook, DomainOutlook, Outlook
from dpdt.study import Study, arm_name

__all__ = ["as_json", "show_outlook"]


def show_outlook(study: Study, outlook: Outlook) -> None:
    """Print tables of domains and trainings, the totals, and the warnings."""
    rows = [_domain(domain) for domain in outlook.domains]
    columns = ("domain", "images", "patients", "train images", "test images", "shards", "GB", "counted from")
    show_table(f"Data of {study.name}", columns, rows)
    names = (
        "training",
        "epsilon",
        "seed",
        f"train {study.privacy.unit}s",
        "sample rate",
        "steps",
        "sigma",
        "noise",
        "signal",
        "in all",
        "hours",
        "",
    )
    show_table("Trainings", names, [_row(cell) for cell in outlook.cells])
    if any(cell.noise is not None for cell in outlook.cells):
        print(
            "Noise and signal: of a step, in a trained parameter of the mean gradient; the signal is the most that "
            "can be there. In all: signal over noise of all steps, along one direction."
        )
    for line in _totals(study, outlook):
        print(line)
    for text in outlook.warnings:
        warn(text)


def _domain(domain: DomainOutlook) -> tuple[object, ...]:
    size = domain.size
    if size is None:
        return (domain.domain, *[None] * 6, "unknown")
    counts = (size.images, size.patients, size.train_images, size.test_images)
    return (domain.domain, *counts, domain.shards, _formatted(domain.shard_gb, ".2f"), size.source)


def _row(cell: CellOutlook) -> tuple[object, ...]:
    state = "done" if cell.done else "refused" if cell.refused else ""
    return (
        cell.name,
        arm_name(cell.cell.target_epsilon if cell.cell else None, prefix=""),
        cell.cell.seed if cell.cell else "",
        cell.units,
        _formatted(cell.sample_rate, ".4g"),
        cell.steps,
        _formatted(cell.noise_multiplier, ".3f"),
        _formatted(cell.noise, ".1e"),
        _formatted(cell.signal, ".1e"),
        _formatted(cell.signal_to_noise, ",.0f"),
        _formatted(cell.hours, ".3g"),
        state,
    )


def _sizes(num_parameters: Mapping[str, int]) -> str:
    return ", ".join(f"{name}: {number:,}" if name else f"{number:,}" for name, number in num_parameters.items())


def _formatted(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _totals(study: Study, outlook: Outlook) -> list[str]:
    models = len(study.tested_models())
    left = sum(not cell.done for cell in outlook.cells)
    lines = [
        f"{len(outlook.domains)} domains, {len(outlook.cells)} trainings ({left} to do), "
        f"{models * len(study.test_domains)} tests of a model at a domain; "
        f"{_sizes(outlook.num_parameters)} weights."
    ]
    for name, start in study.starts.items():
        if start.why_no_before:
            of = f" of {name}" if name else ""
            lines.append(f"No model from before the trainings{of} is tested: {start.why_no_before}.")
    if outlook.disk_gb is not None:
        lines.append(f"Disk: about {outlook.disk_gb:.2f} GB below {study.folder}; {outlook.free_gb:.0f} GB are free.")
    if not outlook.speeds:
        where = "with Slurm: srun --gpus=1 dpdt plan …" if study.cluster.gpus_per_task else "it takes a minute"
        lines.append(f"Hours and memory: unknown. `dpdt plan STUDY --measure` tries the machine it runs on ({where}).")
        return lines
    speeds = [f"{s.arm} {s.image_ms:.2f} ms an image, {s.peak_gb:.1f} GB" for s in outlook.speeds.values()]
    lines.append(f"Measured on {next(iter(outlook.speeds.values())).device}: {'; '.join(speeds)}.")
    if outlook.train_hours is not None:
        kind = "GPU hours" if not any("CPU" in s.device for s in outlook.speeds.values()) else "hours"
        lines.append(
            f"Training: {outlook.train_hours:.3g} {kind} in all, the longest "
            f"{max(cell.hours or 0 for cell in outlook.cells):.3g}; {study.cluster.array_parallelism} may run at once."
        )
    if outlook.evaluate_hours is not None:
        lines.append(f"Evaluation: {outlook.evaluate_hours:.3g} hours in all.")
    return lines


def as_json(outlook: Outlook) -> dict[str, Any]:
    """For programs; infinity becomes null (the arm without DP has `private` false)."""
    found = asdict(outlook)
    found["train_hours"] = outlook.train_hours
    if [*outlook.num_parameters] == [""]:
        found["num_parameters"] = outlook.num_parameters[""]
    for shown, cell in zip(found["cells"], outlook.cells, strict=True):
        private = cell.cell is not None and cell.cell.private
        shown["cell"] = cell.cell and {
            "domain": cell.cell.domain,
            "target_epsilon": cell.cell.target_epsilon if private else None,
            "seed": cell.cell.seed,
            **cell.cell.recorded,
        }
        shown["private"] = private
    return found
