"""Six made-up hospitals: what their machines, their rooms and their patients have of their own."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

__all__ = ["HOSPITALS", "Hospital"]


@dataclass(frozen=True)
class Hospital:
    """One hospital's habits. Lengths are in units of half a thorax' height, angles in degrees.

    Attributes:
        code: Part of every random seed, so that hospitals do not share patients.
        patients: Patients by default.
        aspect: Height and width of a raw image, relative to `image_size`.
        female, age_mean, age_sd: Whom the hospital sees.
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


def _mix(cardiomegaly: float, pleural_effusion: float, pneumonia: float, atelectasis: float) -> dict[str, float]:
    return {
        "cardiomegaly": cardiomegaly,
        "pleural_effusion": pleural_effusion,
        "pneumonia": pneumonia,
        "atelectasis": atelectasis,
    }


HOSPITALS: Final[Mapping[str, Hospital]] = {
    "vindr": Hospital(
        code=1,
        patients=700,
        aspect=(1.2, 1.0),
        female=0.45,
        age_mean=48,
        age_sd=16,
        healthy=0.36,
        findings=_mix(0.42, 0.36, 0.38, 0.34),
        others=("nodule", "fibrosis"),
        more_images=0.0,
        bedside=0.0,
        zoom=1.0,
        zoom_sd=0.03,
        rotation_sd=1.5,
        shift_sd=0.03,
        gamma=1.0,
        curve=3.0,
        blur=0.6,
        sharpen=0.8,
        noise=0.012,
        collimation=0.04,
        pneumonia_zone=(-0.5, -0.1),
        strength=(0.05, 0.8),
        marker="R",
    ),
    "chestxray14": Hospital(
        code=2,
        patients=550,
        aspect=(1.05, 1.05),
        female=0.44,
        age_mean=47,
        age_sd=17,
        healthy=0.32,
        findings=_mix(0.36, 0.44, 0.34, 0.42),
        others=("nodule", "fibrosis"),
        more_images=0.35,
        bedside=0.55,
        zoom=1.1,
        zoom_sd=0.05,
        rotation_sd=3.0,
        shift_sd=0.05,
        gamma=0.85,
        curve=1.5,
        blur=1.0,
        sharpen=0.0,
        noise=0.04,
        collimation=0.08,
        companions={"pleural_effusion": ("drain", 0.6)},
        strength=(0.1, 0.9),
        marker="L",
        bedside_text="PORTABLE",
        quirks={"unlisted": 0.01},
    ),
    "chexpert": Hospital(
        code=3,
        patients=550,
        aspect=(0.95, 1.15),
        female=0.41,
        age_mean=61,
        age_sd=18,
        healthy=0.34,
        findings=_mix(0.4, 0.48, 0.32, 0.4),
        others=("nodule", "device", "congestion"),
        more_images=0.35,
        bedside=0.85,
        zoom=1.28,
        zoom_sd=0.06,
        rotation_sd=4.0,
        shift_sd=0.06,
        gamma=1.2,
        curve=3.0,
        blur=0.5,
        sharpen=1.5,
        noise=0.02,
        collimation=0.02,
        companions={"cardiomegaly": ("wires", 0.6), "pneumonia": ("tube", 0.6)},
        strength=(0.1, 0.9),
        marker="L",
        bedside_text="AP SUPINE",
        quirks={"lateral": 0.1, "uncertain": 0.05},
    ),
    "uka": Hospital(
        code=4,
        patients=550,
        aspect=(1.0, 1.2),
        female=0.37,
        age_mean=67,
        age_sd=13,
        healthy=0.36,
        findings=_mix(0.5, 0.4, 0.38, 0.38),
        others=("congestion", "device"),
        more_images=0.35,
        bedside=1.0,
        zoom=0.97,
        zoom_sd=0.04,
        rotation_sd=3.0,
        shift_sd=0.05,
        gamma=0.8,
        curve=2.5,
        blur=0.8,
        sharpen=0.0,
        noise=0.035,
        collimation=0.06,
        strength=(0.35, 1.0),
        marker="",
        supine=0.5,
        lobar=0.6,
        companions={"pneumonia": ("electrodes", 0.6)},
        quirks={},
    ),
    "padchest": Hospital(
        code=5,
        patients=550,
        aspect=(1.15, 1.05),
        female=0.5,
        age_mean=60,
        age_sd=18,
        healthy=0.38,
        findings=_mix(0.4, 0.38, 0.36, 0.4),
        others=("nodule", "fibrosis", "device"),
        more_images=0.3,
        bedside=0.3,
        zoom=1.0,
        zoom_sd=0.04,
        rotation_sd=2.0,
        shift_sd=0.04,
        gamma=1.5,
        curve=2.5,
        blur=0.7,
        sharpen=0.6,
        noise=0.035,
        collimation=0.06,
        lobar=0.5,
        companions={"atelectasis": ("line", 0.6)},
        strength=(0.05, 0.8),
        supine=0.4,
        pneumonia_zone=(-0.45, 0.4),
        marker="D",
        bedside_text="SUPINO",
        quirks={"lateral": 0.05, "unlabelled": 0.01, "exclude": 0.01, "suboptimal study": 0.01},
    ),
    "mimic": Hospital(
        code=6,
        patients=1000,
        aspect=(1.1, 1.0),
        female=0.48,
        age_mean=62,
        age_sd=17,
        healthy=0.34,
        findings=_mix(0.42, 0.44, 0.38, 0.42),
        others=("nodule", "device", "congestion", "fibrosis"),
        more_images=0.25,
        bedside=0.6,
        zoom=1.12,
        zoom_sd=0.05,
        rotation_sd=2.5,
        shift_sd=0.04,
        gamma=1.0,
        curve=2.5,
        blur=0.8,
        sharpen=0.5,
        noise=0.025,
        collimation=0.06,
        strength=(0.1, 0.9),
        marker="L",
        bedside_text="PORTABLE",
        quirks={"lateral": 0.08, "unknown view": 0.03, "uncertain": 0.03},
    ),
}
