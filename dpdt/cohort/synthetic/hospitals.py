"""How made-up hospitals differ: in machines, rooms and patients."""

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["Hospital", "mix"]


@dataclass(frozen=True)
class Hospital:
    """One hospital's habits. Lengths are in units of half a thorax' height, angles in degrees.

    Attributes:
        code: Part of every random seed, so that hospitals do not share patients.
        patients: Patients by default.
        aspect: Height and width of a raw image, relative to `image_size`.
        female, age_mean, age_sd: Sex and age of its patients.
        healthy: Part of the patients without any finding, at age 55.
        findings: Chance of each finding in a patient who is not healthy.
        others: What else is seen, each equally often: nodule, fibrosis, device, congestion.
        more_images: Chance of each further image of a patient.
        bedside: Part of the sick who are X-rayed in bed (AP); of the healthy it is a third.
        supine: How often fluid spreads behind the lung as a veil instead of filling its base.
        pneumonia_zone: Between which heights its clouds lie (negative: upper lung).
        lobar: How often atelectasis is a wedge beside the spine instead of plates.
        companions: Finding -> what sick-bed equipment comes with it here, and how often; a network that learns it
            instead of the finding fails elsewhere.
        zoom, zoom_sd, rotation_sd, shift_sd: Field of view and positioning.
        gamma, curve: Contrast curve: power, and steepness of an S curve.
        blur, sharpen, noise: Machine and post-processing: pixels, factor, standard deviation.
        collimation: Largest width of the black borders.
        marker: Letter at the image's upper corner; `bedside_text` is burnt into bedside images.
        strength: How clear findings are, lowest and highest.
        quirks: Chance of each oddity of the raw tables.
    """

    code: int
    patients: int
    aspect: tuple[float, float]
    female: float
    age_mean: float
    age_sd: float
    healthy: float
    findings: Mapping[str, float]
    others: tuple[str, ...]
    more_images: float
    bedside: float
    zoom: float
    zoom_sd: float
    rotation_sd: float
    shift_sd: float
    gamma: float
    curve: float
    blur: float
    sharpen: float
    noise: float
    collimation: float
    marker: str
    supine: float = 0.0
    pneumonia_zone: tuple[float, float] = (-0.2, 0.4)
    lobar: float = 0.1
    companions: Mapping[str, tuple[str, float]] = field(default_factory=dict)
    bedside_text: str = ""
    strength: tuple[float, float] = (0.25, 1.0)
    quirks: Mapping[str, float] = field(default_factory=dict)


def mix(cardiomegaly: float, pleural_effusion: float, pneumonia: float, atelectasis: float) -> dict[str, float]:
    """Chance of each finding in a patient who is not healthy."""
    return {
        "cardiomegaly": cardiomegaly,
        "pleural_effusion": pleural_effusion,
        "pneumonia": pneumonia,
        "atelectasis": atelectasis,
    }
