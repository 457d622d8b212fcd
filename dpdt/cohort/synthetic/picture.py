"""One radiograph to be drawn: its patient and findings."""

from dataclasses import dataclass, field

import numpy as np

from dpdt.base.vocabulary import LABELS
from dpdt.cohort.synthetic.hospitals import Hospital

__all__ = ["Picture"]


@dataclass(frozen=True)
class Picture:
    """One radiograph to be drawn.

    Attributes:
        domain: Hospital.
        seed: Seed of the whole set.
        patient: Patient number from 0.
        number: Image number within the patient, from 0; each is a separate study.
        sex: female or male.
        age: Years.
        findings: Finding -> how clear it is, in (0, 1].
        other: Something else that is seen, or "".
        view: PA or AP.
        test: Whether the patient is in the hospital's official test set, where it has one.
        quirk: An oddity of the raw table, or "".
        hospital: The hospital's habits.
    """

    domain: str
    seed: int
    patient: int
    number: int
    sex: str
    age: float
    findings: dict[str, float]
    other: str
    view: str
    test: bool
    quirk: str
    hospital: Hospital = field(compare=False, repr=False)

    @property
    def labels(self) -> dict[str, int]:
        """The five labels, as drawn."""
        found = {label: int(label in self.findings) for label in LABELS}
        return {**found, "healthy": int(not self.findings and not self.other)}

    def generator(self, what: int) -> np.random.Generator:
        """Random numbers of this image; `what` keeps uses apart."""
        return np.random.default_rng([self.seed, self.hospital.code, self.patient, self.number + 1, what])

    def patient_generator(self) -> np.random.Generator:
        """Random numbers of this patient's anatomy, the same in all their images."""
        return np.random.default_rng([self.seed, self.hospital.code, self.patient, 0, 1])
