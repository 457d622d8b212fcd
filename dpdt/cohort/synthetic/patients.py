"""The patients of a made-up hospital and their findings: decided by seed, hospital and patient number alone."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

import numpy as np

from dpdt.cohort.synthetic.hospitals import Hospital
from dpdt.cohort.synthetic.layouts import HOSPITALS
from dpdt.cohort.synthetic.picture import Picture

__all__ = ["hospital_pictures", "patient_pictures"]

MAX_IMAGES: Final = 4
REFERENCE_AGE: Final = 55.0
MIN_AGE, MAX_AGE = 18.0, 95.0
UNLABELLED_MIMIC_PATIENT: Final = 7
"""One study without a label row, as eight of the real ones."""


def hospital_pictures(domain: str, *, seed: int, patients: int) -> Iterator[Picture]:
    """All radiographs of a hospital."""
    for patient in range(patients):
        yield from patient_pictures(domain, seed=seed, patient=patient)


def patient_pictures(domain: str, *, seed: int, patient: int) -> list[Picture]:
    """All radiographs of one patient; they do not depend on how many patients there are."""
    hospital = HOSPITALS[domain]
    random = np.random.default_rng([seed, hospital.code, patient, 0, 0])
    sex = "female" if random.random() < hospital.female else "male"
    age = float(np.clip(np.round(random.normal(hospital.age_mean, hospital.age_sd)), MIN_AGE, MAX_AGE))
    test = bool(random.random() < 0.25)
    first = Picture(domain, seed, patient, 0, sex, age, {}, "", "PA", test, "", hospital)
    pictures = [_find(first, hospital, random)]
    while len(pictures) < MAX_IMAGES and random.random() < hospital.more_images:
        last = replace(pictures[-1], number=len(pictures), quirk="")
        pictures.append(_find(last, hospital, random) if random.random() < 0.3 else _again(last, hospital, random))
    return pictures


def _find(picture: Picture, hospital: Hospital, random: np.random.Generator) -> Picture:
    """Draw what this study shows; the old are healthy less often, men have more of most."""
    burden = 0.012 * (picture.age - REFERENCE_AGE) + (0.04 if picture.sex == "male" else -0.04)
    if random.random() < hospital.healthy - 0.5 * burden:
        return _again(replace(picture, findings={}, other=""), hospital, random)
    chances = {name: chance * (1 + 0.5 * burden) for name, chance in hospital.findings.items()}
    found = [name for name, chance in chances.items() if random.random() < chance]
    other = str(random.choice(hospital.others)) if not found or random.random() < 0.15 else ""
    low, high = hospital.strength
    findings = {name: float(random.uniform(low, high)) for name in found}
    return _again(replace(picture, findings=findings, other=other), hospital, random)


def _again(picture: Picture, hospital: Hospital, random: np.random.Generator) -> Picture:
    """Another radiograph of the same findings; view and oddities are drawn again."""
    sick = bool(picture.findings or picture.other)
    view = "AP" if random.random() < hospital.bedside * (1.0 if sick else 1 / 3) or hospital.bedside == 1 else "PA"
    quirk = ""
    draw = random.random()
    for name, chance in hospital.quirks.items():
        if not quirk and draw < chance:
            quirk = name
        draw -= chance
    if picture.domain == "mimic" and picture.patient == UNLABELLED_MIMIC_PATIENT and picture.number == 0:
        quirk = "unlabelled"
    return replace(picture, view=view, quirk=quirk)
