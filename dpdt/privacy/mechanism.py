"""Everything that decides a DP training's epsilon, in one place: planned once, then frozen in the run's config."""

import math
from dataclasses import asdict, dataclass
from typing import Any, Final, Self

from dpdt.errors import PrivacyError
from dpdt.privacy.accounting import (
    Spent,
    calibrate_noise_multiplier,
    check_delta,
    optimistic_epsilon,
    spent_epsilon,
)
from dpdt.study.settings import PrivacySettings

__all__ = ["Mechanism"]

# A frozen noise_multiplier may miss the target by this part, for other versions of the accountant's library.
TOLERANCE: Final = 1e-6
COUNT_PART: Final = 20


@dataclass(frozen=True)
class Mechanism:
    """The Poisson-subsampled Gaussian mechanism of one run.

    Attributes:
        unit: What one unit of the guarantee is, ``patient`` or ``image``.
        num_units: Units of the train split; taken as public.
        sample_rate: Probability of each unit to be in a batch.
        noise_multiplier: Standard deviation of the noise over max_grad_norm.
        max_grad_norm: Bound on one unit's clipped gradient.
        num_steps: Noisy steps of the whole run.
        delta: Below 1 / num_units.
        accountant: The one that is asked, ``pld``, ``prv`` or ``rdp``.
        target_epsilon: What all steps together stay within.
        images_per_unit: Images of a drawn unit; their gradients are averaged before clipping. No effect on epsilon.
        counts_noise: Noise over sensitivity of the counts of labels that class weights were made from, composed with
            the steps; None: nothing was counted.
        quantile: Whether the norm follows the gradients' by counts that are a part of each step's release: then
            noise_multiplier is that of both together (`count_noise`, `sum_noise_multiplier`).
        rounding_allowance: s of the sensitivity max_grad_norm · (1 + s), for what rounding moves the other units'
            gradients (`dpdt.privacy.rounding`); None: the run was begun before this was accounted for.
    """

    unit: str
    num_units: int
    sample_rate: float
    noise_multiplier: float
    max_grad_norm: float
    num_steps: int
    delta: float
    accountant: str
    target_epsilon: float
    images_per_unit: int = 1
    counts_noise: float | None = None
    rounding_allowance: float | None = None
    quantile: bool = False

    @property
    def count_noise(self) -> float | None:
        """Standard deviation of the noise of a step's count of gradients below the norm; None: nothing is counted.

        A unit moves the count by 1/2 · (1 + 3 s) at most (`ClippedGradientSum`), and (1 + 3 s) / (1 + s) <= 1 + 2 s. It
        is a twentieth of the expected batch (Andrew et al. 2021, arXiv 1905.03871, section 3.1), and never so little
        that the count costs more than a sixteenth of the step's 1 / sigma².
        """
        if not self.quantile:
            return None
        widened = 1 + 2 * (self.rounding_allowance or 0.0)
        return widened * max(self.sample_rate * self.num_units / COUNT_PART, 2 * self.noise_multiplier)

    @property
    def sum_noise_multiplier(self) -> float:
        """Standard deviation of the noise of the clipped sum over its norm.

        A step releases sum and count, one Gaussian mechanism of noise multiplier z for z^-2 = z_sum^-2 + (2 b)^-2, b
        being the count's noise over twice its sensitivity of 1/2 (ibid., theorem 1).
        """
        if self.count_noise is None or self.noise_multiplier == 0:
            return self.noise_multiplier
        count = self.count_noise / (1 + 2 * (self.rounding_allowance or 0.0))
        return 1 / math.sqrt(self.noise_multiplier**-2 - (2 * count) ** -2)

    @property
    def sensitivity(self) -> float:
        """What one unit can move the sum by."""
        return self.max_grad_norm * (1 + (self.rounding_allowance or 0.0))

    @property
    def accounted_noise_multiplier(self) -> float:
        """Standard deviation of the noise over the sensitivity: the accountant's noise multiplier."""
        return self.noise_multiplier / (1 + (self.rounding_allowance or 0.0))

    @classmethod
    def plan(
        cls,
        settings: PrivacySettings,
        *,
        target_epsilon: float,
        num_units: int,
        sample_rate: float,
        num_steps: int,
        noise_multiplier: float | None = None,
        counts_share: float | None = None,
        counts_noise: float | None = None,
        rounding_allowance: float | None = None,
        quantile: bool = False,
    ) -> Self:
        """Calibrate the noise, or check one that was calibrated before.

        Args:
            settings: The study file's choices.
            target_epsilon: What everything together may spend.
            num_units: Units of the train split.
            sample_rate: Probability of each of them to be in a batch.
            num_steps: Steps of the whole run.
            noise_multiplier: The frozen one, if the run was begun before.
            counts_share: Part of the target that noisy counts of labels would spend alone; None: nothing is counted.
            counts_noise: The frozen one, if the run was begun before.
            rounding_allowance: Part of max_grad_norm that is added to the sensitivity; None: not accounted for.
            quantile: Whether the norm follows the gradients'.

        Raises:
            PrivacyError: Delta is not below 1 / num_units, the target cannot be reached, or the given noise misses it.
        """
        if not settings.allow_large_delta:
            check_delta(settings.delta, units=num_units, study_unit=settings.unit)
        if counts_share is not None and counts_noise is None:
            counts_noise = calibrate_noise_multiplier(
                target_epsilon=counts_share * target_epsilon, sample_rate=1.0, num_steps=1, delta=settings.delta
            )
        if noise_multiplier is None:
            noise_multiplier = calibrate_noise_multiplier(
                target_epsilon=target_epsilon,
                sample_rate=sample_rate,
                num_steps=num_steps,
                delta=settings.delta,
                accountant=settings.accountant,
                gaussian_noise=counts_noise,
            )
            noise_multiplier = _with_allowance(noise_multiplier, rounding_allowance)
        mechanism = cls(
            unit=settings.unit,
            num_units=num_units,
            sample_rate=sample_rate,
            noise_multiplier=noise_multiplier,
            max_grad_norm=settings.max_grad_norm,
            num_steps=num_steps,
            delta=settings.delta,
            accountant=settings.accountant,
            target_epsilon=target_epsilon,
            images_per_unit=settings.images_per_patient,
            counts_noise=counts_noise,
            rounding_allowance=rounding_allowance,
            quantile=quantile,
        )
        if mechanism.epsilon(num_steps) > target_epsilon * (1 + TOLERANCE):
            raise PrivacyError(
                f"config: noise_multiplier {noise_multiplier:g} spends epsilon {mechanism.epsilon(num_steps):g} in "
                f"{num_steps} steps, more than the target {target_epsilon:g}. The config was altered; remove the run."
            )
        return mechanism

    def epsilon(self, steps: int) -> float:
        """What so many steps spend, with the counts of labels if there are any."""
        return self.spent(steps).epsilon

    def spent(self, steps: int) -> Spent:
        """As ``epsilon``, and which accountant's answer it is."""
        return spent_epsilon(
            noise_multiplier=self.accounted_noise_multiplier,
            sample_rate=self.sample_rate,
            num_steps=steps,
            delta=self.delta,
            accountant=self.accountant,
            gaussian_noise=self.counts_noise,
        )

    def optimistic(self, steps: int) -> float | None:
        """A lower bound on what so many steps spend; None where there is none (`optimistic_epsilon`)."""
        return optimistic_epsilon(
            noise_multiplier=self.accounted_noise_multiplier,
            sample_rate=self.sample_rate,
            num_steps=steps,
            delta=self.delta,
            gaussian_noise=self.counts_noise,
        )

    def events(self, steps: int) -> dict[str, Any]:
        """What so many steps and the counts of labels are to an accountant, for a recomputation elsewhere.

        Returns:
            JSON-like: a tree of dp-accounting's events, each with the name of its class as ``event_type`` and that
            class' own fields.
        """
        gaussian = {"event_type": "GaussianDpEvent", "noise_multiplier": self.accounted_noise_multiplier}
        step = {"event_type": "PoissonSampledDpEvent", "sampling_probability": self.sample_rate, "event": gaussian}
        events: list[dict[str, Any]] = [{"event_type": "SelfComposedDpEvent", "count": steps, "event": step}]
        if self.counts_noise is not None:
            events.append({"event_type": "GaussianDpEvent", "noise_multiplier": self.counts_noise})
        return {"event_type": "ComposedDpEvent", "events": events}

    def as_dict(self) -> dict[str, Any]:
        """For the ledger's first line and the config."""
        found = asdict(self)
        if not self.quantile:  # ledgers of before have no such key
            del found["quantile"]
        return found


def _with_allowance(accounted: float, allowance: float | None) -> float:
    """The least noise multiplier for which the accountant gets at least `accounted`."""
    if allowance is None:
        return accounted
    noise_multiplier = accounted * (1 + allowance)
    while noise_multiplier / (1 + allowance) < accounted:  # rounded down: the target would be passed by a last bit
        noise_multiplier = math.nextafter(noise_multiplier, math.inf)
    return noise_multiplier
