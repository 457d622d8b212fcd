"""What each domain and each training will take: counted, calibrated, and timed where a speed is known."""

import functools
import math
import shutil
from collections.abc import Mapping
from dataclasses import replace

from dpdt.base.files import nearest_folder
from dpdt.cohort.splits import nobody_left
from dpdt.errors import PrivacyError
from dpdt.jobs.plan.measure import Speed, speed_key
from dpdt.jobs.plan.outlook import CellOutlook, DomainOutlook, Outlook
from dpdt.jobs.plan.sizes import DomainSize, domain_size
from dpdt.jobs.plan.warnings import signal_to_noise, warnings_of
from dpdt.jobs.resources import resources
from dpdt.privacy.mechanism import Mechanism
from dpdt.privacy.rounding import allowance_of
from dpdt.privacy.sampling import num_steps_for, sample_rate_for
from dpdt.runs.state import run_done
from dpdt.study import Cell, Study
from dpdt.study.settings import PrivacySettings

__all__ = ["look_ahead"]


def look_ahead(
    study: Study, *, sizes: Mapping[str, tuple[int, int]] | None = None, speeds: Mapping[str, Speed] | None = None
) -> Outlook:
    """Look at everything that a study will do.

    Args:
        study: The study.
        sizes: Images and patients of domains without a cohort, or in place of it.
        speeds: What was measured, as `measure` has it.

    Raises:
        DpdtError: A cohort is damaged, or a custom network cannot be built.
    """
    speeds = speeds or {}
    of_parts = {view.fraction: view for view in study.views}
    known = {
        part: {domain: domain_size(view, domain, sizes or {}) for domain in study.used_domains}
        for part, view in of_parts.items()
    }
    found = known[study.fraction]
    domains = tuple(_domain(study, domain, size) for domain, size in found.items())
    from dpdt.training.networks.build import num_parameters

    parameters = {name: num_parameters(start) for name, start in study.starts.items()}
    trained = {name: num_parameters(start, trained=True) for name, start in study.starts.items()}
    cells = tuple(
        cell for view in study.views for cell in _cells(view, known[view.fraction], speeds, trained[view.start])
    )
    cells = tuple({(cell.name, cell.cell): cell for cell in cells}.values())  # views share pretrainings
    free = shutil.disk_usage(nearest_folder(study.folder)).free / 1e9
    outlook = Outlook(
        domains=domains,
        cells=cells,
        num_parameters=parameters,
        speeds=speeds,
        evaluate_hours=_evaluate_hours(study, found, speeds),
        disk_gb=_disk_gb(study, domains, parameters, trained),
        free_gb=free,
        warnings=(),
    )
    return replace(outlook, warnings=tuple(warnings_of(study, outlook)))


def _domain(study: Study, domain: str, size: DomainSize | None) -> DomainOutlook:
    if size is None:
        return DomainOutlook(domain, None, None, None)
    shards = math.ceil(size.images / study.shards.rows_per_shard)
    return DomainOutlook(domain, size, shards, size.images * study.shards.size**2 / 1e9)


def _cells(
    study: Study, sizes: Mapping[str, DomainSize | None], speeds: Mapping[str, Speed], trained: int
) -> list[CellOutlook]:
    """Of a view that trains so many parameters."""
    found = []
    if study.public_domain and study.pretrain_run_id:
        name = ", ".join(filter(None, (f"{study.public_domain} (pretraining)", study.start)))
        done = run_done(study, study.pretrain_run_id)
        found.append(_cell(study, name, None, done, sizes[study.public_domain], speeds))
    with_features = set()
    for cell in study.cells():
        name, done = ", ".join(filter(None, (cell.domain, cell.axes))), run_done(study, study.run_id(cell))
        outlook = _with_signal(study, _cell(study, name, cell, done, sizes[cell.domain], speeds), trained)
        if cell.domain not in with_features and outlook.hours is not None:  # the first of a domain makes the features
            outlook = replace(outlook, hours=outlook.hours + _features_hours(study, sizes[cell.domain], speeds))
            with_features.add(cell.domain)
        found.append(outlook)
    return found


def _features_hours(study: Study, size: DomainSize | None, speeds: Mapping[str, Speed]) -> float:
    """One pass of the frozen network over the train split, where the head alone is trained."""
    speed = speeds.get(speed_key(study.start, "evaluate"))
    if study.train.parameters != "head" or size is None or speed is None:
        return 0.0
    return size.train_images * speed.image_ms / 3.6e6


def _cell(
    study: Study, name: str, cell: Cell | None, done: bool, size: DomainSize | None, speeds: Mapping[str, Speed]
) -> CellOutlook:
    """What one training will do."""
    if size is None:
        return CellOutlook(name, cell, done)
    settings = study.train if cell else study.pretrain
    units = size.train_units(study.privacy.unit)
    if cell and not units and study.part_of(cell.domain) < 1:
        return CellOutlook(name, cell, done, units, refused=nobody_left(study, cell.domain))
    batch = settings.batch_of(units)
    try:
        section, unit = "train" if cell else "pretrain", study.privacy.unit
        rate = sample_rate_for(expected_batch_size=batch, num_units=units, section=section, unit=unit)
        steps = num_steps_for(num_epochs=settings.passes, expected_batch_size=batch, num_units=units)
        noise = _noise(study, cell.target_epsilon, units, rate, steps) if cell and cell.private else None
    except PrivacyError as err:
        return CellOutlook(name, cell, done, units, refused=str(err))
    images = steps * batch * _images_a_unit(study, size, cell)
    speed = speeds.get(speed_key(study.start, "private" if cell and cell.private else "plain"))
    hours = None if speed is None else (images * speed.image_ms + steps * speed.step_ms) / 3.6e6
    return CellOutlook(name, cell, done, units, rate, steps, noise, images, hours)


def _with_signal(study: Study, cell: CellOutlook, trained: int) -> CellOutlook:
    """With what its noise and its gradients are at most in a trained parameter."""
    if cell.noise_multiplier is None or cell.units is None or cell.steps is None:
        return cell
    batch, norm = study.train.batch_of(cell.units), 1.0 if study.train.closed_form else study.privacy.max_grad_norm
    ratio = signal_to_noise(
        expected_batch_size=batch,
        noise_multiplier=cell.noise_multiplier,
        steps=cell.steps,
    )
    noise, signal = cell.noise_multiplier * norm / batch, norm / math.sqrt(trained)
    found = replace(cell, noise=noise, signal=signal, signal_to_noise=ratio)
    if study.train.full_learning_rate_at is None or study.train.closed_form:
        return found
    rate = study.train.learning_rate_with(expected_batch_size=batch, noise_multiplier=cell.noise_multiplier)
    return replace(found, learning_rate=rate)


def _images_a_unit(study: Study, size: DomainSize, cell: Cell | None) -> float:
    """Images of a drawn unit in a step, at most, each view counted."""
    if cell is None:
        return 1.0
    of_a_patient = min(float(study.privacy.images_per_patient), size.train_images / max(1, size.train_patients))
    return study.train.views * (1.0 if study.privacy.unit == "image" else of_a_patient)


@functools.lru_cache(maxsize=256)
def _plan_noise(
    settings: PrivacySettings,
    target_epsilon: float,
    units: int,
    rate: float,
    steps: int,
    counts_share: float | None,
    allowance: float,
) -> float:
    return Mechanism.plan(
        settings,
        target_epsilon=target_epsilon,
        num_units=units,
        sample_rate=rate,
        num_steps=steps,
        counts_share=counts_share,
        rounding_allowance=allowance,
    ).noise_multiplier


def _noise(study: Study, target_epsilon: float, units: int, rate: float, steps: int) -> float:
    """As the training itself will calibrate it; seeds share one calibration."""
    settings = study.privacy.model_copy(update={"target_epsilons": (target_epsilon,)})
    share = settings.class_weights_share if study.train.class_weights == "private" else None
    allowance = allowance_of(study, num_units=units)
    return _plan_noise(settings, target_epsilon, units, rate, steps, share, allowance)


def _evaluate_hours(study: Study, sizes: Mapping[str, DomainSize | None], speeds: Mapping[str, Speed]) -> float | None:
    image_ms = {name: speed.image_ms for name in study.starts if (speed := speeds.get(speed_key(name, "evaluate")))}
    tested = [sizes[domain] for domain in study.test_domains]
    if len(image_ms) < len(study.starts) or None in tested:
        return None
    images = sum(size.test_images for size in tested if size is not None)
    return images * sum(image_ms[cell.initial] for cell in study.tested_models()) / 3.6e6


def _disk_gb(
    study: Study, domains: tuple[DomainOutlook, ...], parameters: Mapping[str, int], trained: Mapping[str, int]
) -> float | None:
    """Shards; each run's weights; while it trains a checkpoint (weights, two moments) and its successor; features."""
    pixels = [domain.shard_gb for domain in domains]
    if None in pixels:
        return None
    runs = [parameters[cell.initial] for cell in study.cells()]
    runs += [parameters[name] for name, start in study.starts.items() if start.public_domain]
    at_once = sum(sorted(runs)[-resources(study)["train"].array_parallelism :])
    numbers = sum(runs) + at_once * 2 * 3
    if study.train.parameters == "head":  # the head's weights and bias, a label each: so many features an image
        images = sum(d.size.train_images for d in domains if d.size and d.domain in study.train_domains)
        numbers += images * sum(head // len(study.study.labels) - 1 for head in trained.values())
    return sum(gb for gb in pixels if gb is not None) + numbers * 4 / 1e9
