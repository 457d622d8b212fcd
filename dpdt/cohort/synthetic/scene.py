"""One image's grid and geometry, and the soft shapes that everything is drawn with.

Coordinates: x to the image's right (the patient's left), y down, both 0 in the middle of the chest; the thorax is about
1.5 wide and 1.6 high. Brightness is density, 0 (air) to 1 (bone).
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from dpdt.cohort.synthetic.hospitals import Hospital
from dpdt.cohort.synthetic.picture import Picture

__all__ = ["SIDES", "Image", "Scene", "bump", "ridge", "soft", "towards"]

Image = NDArray[np.floating[Any]]

SIDES: Final = (-1, 1)
"""Left and right in the image."""


@dataclass(frozen=True)
class Scene:
    """One image's grid, geometry and random numbers."""

    picture: Picture
    hospital: Hospital
    shape: tuple[int, int]

    @cached_property
    def random(self) -> np.random.Generator:
        """For what is in the chest."""
        return self.picture.generator(1)

    @cached_property
    def machine(self) -> np.random.Generator:
        """For how it is photographed: a finding more or less does not change the noise."""
        return self.picture.generator(4)

    @cached_property
    def body(self) -> dict[str, float]:
        """The patient's build."""
        random, picture = self.picture.patient_generator(), self.picture
        female = picture.sex == "female"
        age = (picture.age - 55) / 40
        return {
            "width": float(random.normal(0.97 if female else 1.03, 0.04)),
            "height": float(random.normal(0.98, 0.04) - 0.03 * age),
            "heart": float(random.normal(0.43, 0.022) + 0.012 * age),
            "ribs": float(random.uniform(0.05, 0.09) * (1 - 0.3 * age)),
            "breast": float(random.uniform(0.04, 0.12)) if female else 0.0,
            "fat": float(random.uniform(0.0, 0.12)),
            "markings": float(random.uniform(0.02, 0.035) + 0.012 * age),
            "right": float(random.normal(0, 0.035)),
            "left": float(random.normal(0, 0.035)),
            "phase": float(random.uniform(0, 1)),
        }

    @cached_property
    def grid(self) -> tuple[Image, Image]:
        """Both coordinates of each pixel, x and y."""
        hospital, random = self.hospital, self.machine
        height, width = self.shape
        scale = 2 / (min(height, width) * max(0.5, random.normal(hospital.zoom, hospital.zoom_sd)))
        angle = np.deg2rad(random.normal(0, hospital.rotation_sd))
        shift = random.normal(0, hospital.shift_sd, 2).tolist()
        u = (np.arange(width, dtype=np.float32) - (width - 1) / 2) * scale - shift[0]
        v = (np.arange(height, dtype=np.float32) - (height - 1) / 2) * scale - shift[1]
        cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
        x = cos * u[None, :] + sin * v[:, None]
        y = cos * v[:, None] - sin * u[None, :]
        return x / np.float32(self.body["width"]), y / np.float32(self.body["height"])

    def texture(self, cells: int) -> Image:
        """Smooth noise of unit variance with about `cells` bumps from edge to edge."""
        coarse = self.random.standard_normal((cells, cells), dtype=np.float32)
        fine: Image = cv2.resize(coarse, self.shape[::-1], interpolation=cv2.INTER_CUBIC)
        return fine


def soft(distance: Image, width: float) -> Image:
    """0 outside, 1 inside, a smooth step `width` wide at distance 0."""
    step: Image = np.clip(distance / np.float32(width) + np.float32(0.5), 0, 1)
    return step * step * (3 - 2 * step)


def bump(x: Image, y: Image, centre: tuple[float, float], size: tuple[float, float]) -> Image:
    """Gaussian hill of height 1."""
    dx, dy = (x - np.float32(centre[0])) / np.float32(size[0]), (y - np.float32(centre[1])) / np.float32(size[1])
    hill: Image = np.exp(-(dx * dx + dy * dy))
    return hill


def ridge(distance: Image, width: float) -> Image:
    """A line: 1 at distance 0, Gaussian across."""
    across = distance / np.float32(width)
    line: Image = np.exp(-(across * across))
    return line


def towards(image: Image, level: float, mask: Image) -> Image:
    """Blend to a brightness where `mask` is 1."""
    return image + (np.float32(level) - image) * mask
