"""The plan as tables, and as JSON."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from dpdt.base.console import show_table, warn
from dpdt.jobs.plan.outlook import CellOutlook, DomainOutlook, Outlook
from dpdt.jobs.resources import resources
from dpdt.study import Study, arm_name

__all__ = ["as_json", "show_outlook"]


def show_outlook(study: Study, outlook: Outlook) -> None:
    """Print tables of domains, trainings and noise, each 80 columns wide at most, the totals, and the warnings."""
    rows = [_domain(domain) for domain in outlook.domains]
    columns = ("domain", "patients", "images", "in train", "in test", "GB", "from")
    show_table(f"Data of {study.name}", columns, rows)
    names = ("training", "epsilon", "seed", f"{study.privacy.unit}s", "rate", "steps", "hours")
    title = f"Trainings ({study.privacy.unit}s in train; rate: of being in a step)"
    show_table(title, names, [_row(cell) for cell in outlook.cells], skip_empty=True)
    noisy = dict.fromkeys(_noise_row(cell) for cell in outlook.cells if cell.noise is not None)  # the same of all seeds
    if noisy:
        columns = ("training", "epsilon", "sigma", "noise", "signal", "in all", "learning rate")
        show_table("Noise", columns, [*noisy], skip_empty=True)
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
        return (domain.domain, *[None] * 5, "unknown")
    counts = (size.patients, size.images, size.train_images, size.test_images)
    return (domain.domain, *counts, _formatted(domain.shard_gb, ".2f"), size.source)


def _row(cell: CellOutlook) -> tuple[object, ...]:
    state = "done" if cell.done else "refused" if cell.refused else _hours(cell.hours)
    seed = cell.cell.seed if cell.cell else ""
    return (*_names(cell), seed, cell.units, _formatted(cell.sample_rate, ".3g"), cell.steps, state)


def _noise_row(cell: CellOutlook) -> tuple[object, ...]:
    numbers = (
        (cell.noise_multiplier, ".3f"),
        (cell.noise, ".1e"),
        (cell.signal, ".1e"),
        (cell.signal_to_noise, ",.0f"),
        (cell.learning_rate, ".1e"),
    )
    return (*_names(cell), *(_formatted(value, form) for value, form in numbers))


def _names(cell: CellOutlook) -> tuple[str, str]:
    return cell.name, arm_name(cell.cell.target_epsilon if cell.cell else None, prefix="")


def _sizes(num_parameters: Mapping[str, int]) -> str:
    return ", ".join(f"{name}: {number:,}" if name else f"{number:,}" for name, number in num_parameters.items())


def _formatted(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _hours(value: float | None) -> str:
    return _formatted(value, ".3g" if value is None or value < 100 else ",.0f")


def _totals(study: Study, outlook: Outlook) -> list[str]:
    models = len(study.tested_models())
    asked = resources(study)["train"]
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
        where = "with Slurm: srun --gpus=1 dpdt plan …" if asked.gpus else "it takes a minute"
        lines.append(f"Hours and memory: unknown. `dpdt plan STUDY --measure` tries the machine it runs on ({where}).")
        return lines
    speeds = [f"{s.arm} {s.image_ms:.2f} ms an image, {s.peak_gb:.1f} GB" for s in outlook.speeds.values()]
    lines.append(f"Measured on {next(iter(outlook.speeds.values())).device}: {'; '.join(speeds)}.")
    if outlook.train_hours is not None:
        kind = "GPU hours" if not any("CPU" in s.device for s in outlook.speeds.values()) else "hours"
        longest = max(cell.hours or 0 for cell in outlook.cells)
        lines.append(
            f"Training: {_hours(outlook.train_hours)} {kind} in all, the longest {_hours(longest)}; "
            f"{asked.array_parallelism} may run at once."
        )
    if outlook.evaluate_hours is not None:
        lines.append(f"Evaluation: {_hours(outlook.evaluate_hours)} hours in all.")
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
