"""Warnings before a study is sent: trainings that will be refused, have too much noise, or run out of memory."""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from dpdt.cohort.shared_patients import of_shared_patients
from dpdt.jobs.raw_data import lost_data
from dpdt.jobs.resources import resources
from dpdt.study import Study, format_epsilon

if TYPE_CHECKING:
    from dpdt.jobs.plan.outlook import Outlook

__all__ = ["signal_to_noise", "warnings_of"]

LARGE_DELTA: Final = 0.1
"""Of 1 / units: above it the guarantee is weak even where epsilon is small."""
LARGE_SAMPLE_RATE: Final = 0.2
LITTLE_SIGNAL: Final = 100.0
"""Below, nothing was learned from synthetic images; a tenth of what can be at 140 to 160, a quarter at 410."""


def signal_to_noise(*, expected_batch_size: int, noise_multiplier: float, steps: int) -> float:
    """The largest possible sum of all clipped gradients, over the noise along the same direction.

    T steps add noise of standard deviation sigma · C · sqrt(T) along any direction. The clipped gradients of B units a
    step sum to at most B · C · T, if all of them point there. The quotient is B · sqrt(T) / sigma; of a head in closed
    form units / sigma. Real gradients hardly agree: docs/recipes.md has what was learned at which quotient.

    >>> signal_to_noise(expected_batch_size=100, noise_multiplier=2.0, steps=10_000)
    5000.0
    """
    return expected_batch_size * math.sqrt(steps) / noise_multiplier


def warnings_of(study: Study, outlook: "Outlook") -> Iterator[str]:
    """All of them, the worst first."""
    given = {domain.domain for domain in outlook.domains if domain.size is not None and domain.size.source == "--size"}
    yield from (f"{domain}: {problem}" for domain, problem in lost_data(study).items() if domain not in given)
    for short in outlook.domains:
        if short.size is not None and short.size.not_there:
            yield (
                f"{short.domain}: {short.size.not_there} images of the cohort are not there, and not counted. The "
                'shards stage rejects them; missing_images = "exclude" in the domain leaves them out.'
            )
    unknown = [domain.domain for domain in outlook.domains if domain.size is None]
    if unknown:
        example = f"--size {unknown[0]}=IMAGES/PATIENTS"
        yield (
            f"{', '.join(unknown)}: size unknown. Build the cohort (dpdt cohort STUDY: minutes, reads lists only), or "
            f"give numbers: {example}"
        )
    # seeds and epsilons of a domain share one reason
    yield from dict.fromkeys(f"{cell.name}: will be refused: {cell.refused}" for cell in outlook.cells if cell.refused)
    for tested in outlook.domains:
        if tested.domain in study.test_domains and tested.size is not None and not tested.size.test_images:
            yield (
                f"{tested.domain}: no image in test, so evaluations there will be refused. Add patients, raise "
                "test_fraction, change study.seed, or leave the domain out of evaluate.domains."
            )
    yield from of_shared_patients(study)
    yield from _about_noise(study, outlook)
    yield from _about_delta(study, outlook)
    yield from _about_memory(study, outlook)
    if outlook.disk_gb is not None and outlook.disk_gb > outlook.free_gb:
        yield (
            f"disk: {outlook.disk_gb:.1f} GB will be written below {study.folder}, {outlook.free_gb:.1f} GB are free. "
            "Set study.folder to a larger disk."
        )


def _about_noise(study: Study, outlook: "Outlook") -> Iterator[str]:
    """Domains too small for an epsilon, or for their batch: a line an epsilon."""
    unit = study.privacy.unit
    too_noisy: dict[str, list[str]] = {}
    crowded: dict[str, str] = {}
    for cell in outlook.cells:
        if cell.cell is None or cell.signal_to_noise is None or cell.sample_rate is None:
            continue
        names = too_noisy.setdefault(format_epsilon(cell.cell.target_epsilon), [])
        if cell.signal_to_noise < LITTLE_SIGNAL and cell.cell.seed == study.train.seeds[0]:
            names.append(f"{cell.name} ({cell.units}: {cell.signal_to_noise:.3g})")
        if cell.sample_rate > LARGE_SAMPLE_RATE and not study.train.closed_form:
            crowded[cell.name] = f"{cell.name} ({cell.sample_rate:.0%})"
    for epsilon, names in too_noisy.items():
        if names:
            yield (
                f"epsilon {epsilon}: too few {unit}s at {', '.join(names)}. Their signal in all is less than "
                f"{LITTLE_SIGNAL:g} times the noise: expect nothing beyond the model before. Take a larger epsilon, or "
                "larger batches."
            )
    if crowded:
        key = "expected_batch_size" if study.train.sample_rate is None else "sample_rate"
        yield (
            f"train.{key}: {getattr(study.train, key)} draws much of all {unit}s in a step at "
            f"{', '.join(crowded.values())}, which hides little of who took part. Make it smaller."
        )


def _about_delta(study: Study, outlook: "Outlook") -> Iterator[str]:
    """Delta that is allowed, and yet large for the number of units."""
    units = {cell.name: cell.units for cell in outlook.cells if cell.noise_multiplier is not None and cell.units}
    large = [f"{name} ({count})" for name, count in units.items() if study.privacy.delta > LARGE_DELTA / count]
    if large:
        yield (
            f"privacy.delta: {study.privacy.delta:g} is more than a tenth of 1 / {study.privacy.unit}s of "
            f"{', '.join(large)}. A smaller one protects better for little more noise."
        )


def _about_memory(study: Study, outlook: "Outlook") -> Iterator[str]:
    """A physical batch that will not fit into the memory that the cluster is asked for."""
    peaks = [speed for speed in outlook.speeds.values() if "CPU" in speed.device]
    asked = resources(study)["train"]
    if peaks and not asked.gpus:
        worst = max(peaks, key=lambda speed: speed.peak_gb)
        if worst.peak_gb > 0.9 * asked.mem_gb:
            yield (
                f"memory: a physical batch of {study.train.images_at_once} takes {worst.peak_gb:.1f} GB "
                f"({worst.arm}), cluster.mem_gb is {asked.mem_gb:g}. Halve "
                "train.physical_batch_size (it changes speed alone), or ask for more."
            )
    if peaks and asked.gpus:
        yield "measured without a GPU, and the study asks for GPUs: run `dpdt plan STUDY --measure` where one is."
