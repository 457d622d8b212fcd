"""What is drawn into the chest: the findings, other things that are not healthy, and sick-bed equipment."""

from typing import Final

import numpy as np

from dpdt.cohort.synthetic.anatomy import lung_outline
from dpdt.cohort.synthetic.scene import SIDES, Image, Scene, bump, ridge, soft, towards

__all__ = ["draw_atelectasis", "draw_effusion", "draw_equipment", "draw_other", "draw_pneumonia"]

FLUID: Final = 0.7
SELDOM: Final = 0.06
"""How often equipment is seen without the finding that it comes with."""


def draw_pneumonia(scene: Scene, image: Image, lungs: Image, side: int) -> Image:
    """One to three patchy, textured clouds in a lung, mostly below its middle."""
    x, y = scene.grid
    random, strength = scene.random, scene.picture.findings["pneumonia"]
    cloud = np.zeros_like(image)
    for _ in range(int(random.integers(1, 4))):
        centre = (side * random.uniform(0.25, 0.58), random.uniform(*scene.hospital.pneumonia_zone))
        size = random.uniform(0.13, 0.2) + 0.06 * strength
        cloud = np.maximum(cloud, bump(x, y, centre, (size, size * random.uniform(0.8, 1.3))))
    patchy: Image = np.clip(0.75 + 0.4 * scene.texture(16), 0, 1.5)
    density: Image = np.float32(0.1 + 0.32 * strength) * cloud * patchy * lungs
    return image + density


def draw_atelectasis(scene: Scene, image: Image, lungs: Image, side: int, strength: float) -> Image:
    """Thin, nearly level plates above the raised diaphragm, or a wedge of collapsed lobe beside the spine."""
    x, y = scene.grid
    random = scene.random
    if random.random() < scene.hospital.lobar:
        wedge: Image = soft(0.34 - np.abs(side * x - 0.1), 0.2) * soft(y - 0.05 - 0.8 * np.abs(side * x - 0.1), 0.12)
        wedge = np.float32(0.1 + 0.22 * strength) * wedge * np.maximum(lungs, 0.3 * soft(0.5 - y, 0.1))
        return image + wedge
    for _ in range(int(random.integers(1, 3))):
        slope, level = random.uniform(-0.35, 0.35), random.uniform(0.05, 0.36)
        middle = random.uniform(0.34, 0.46)
        xl = side * x - np.float32(middle)
        line = ridge(y - np.float32(level) - np.float32(slope) * xl, random.uniform(0.02, 0.04))
        reach = soft(np.float32(random.uniform(0.14, 0.26)) - np.abs(xl), 0.06)
        image = image + np.float32(0.06 + 0.28 * strength) * line * reach * lungs
    return image


def draw_effusion(scene: Scene, image: Image, side: int) -> Image:
    """Fluid: upright it fills the base up to a meniscus that rises to the side; lying it veils the whole lung."""
    x, y = scene.grid
    xl = side * x
    strength = scene.picture.findings["pleural_effusion"]
    inside = lung_outline(scene, side)
    rise = np.clip(xl - 0.3, 0, 1)
    if scene.random.random() >= scene.hospital.supine:
        surface = np.float32(0.68 - 0.36 * strength) - np.float32(0.6 + 1.0 * strength) * rise * rise
        return towards(image, FLUID, 0.95 * inside * soft(y - surface, 0.08))
    veil = np.clip(0.35 + 0.75 * y, 0, 1) * np.float32(0.15 + 0.5 * strength)
    return towards(image, FLUID, inside * veil)


def draw_other(scene: Scene, image: Image, lungs: Image) -> Image:
    """Things that are none of the five labels, but not healthy."""
    x, y = scene.grid
    random, other = scene.random, scene.picture.other
    if other == "nodule":
        for _ in range(int(random.integers(1, 4))):
            centre = (random.choice(SIDES) * random.uniform(0.3, 0.55), random.uniform(-0.4, 0.35))
            size = random.uniform(0.045, 0.08)
            dx, dy = x - np.float32(centre[0]), y - np.float32(centre[1])
            image = image + 0.35 * soft(np.float32(size) - np.sqrt(dx * dx + dy * dy), 0.03) * lungs
    elif other == "fibrosis":
        net = np.abs(scene.texture(40)) * soft(np.abs(x) - 0.3, 0.4)
        image = image + 0.16 * net * lungs
    elif other == "congestion":
        for side in SIDES:
            image = image + 0.26 * bump(x, y, (side * 0.22, 0.0), (0.24, 0.3)) * lungs
    elif other == "device":
        box = soft(0.1 - np.abs(x - 0.5), 0.02) * soft(0.08 - np.abs(y + 0.42), 0.02)
        lead = ridge(x - 0.12 - 0.5 * (y + 0.1) ** 2, 0.014)
        image = towards(image, 1.0, np.maximum(box, 0.8 * lead * soft(0.45 - np.abs(y + 0.05), 0.05)))
    return image


def draw_equipment(scene: Scene, image: Image) -> Image:
    """What the hospital puts on or into those with a certain finding, and now and then on others."""
    for finding, (what, often) in scene.hospital.companions.items():
        present = finding in scene.picture.findings
        if scene.random.random() < (often if present else SELDOM):
            image = towards(image, 1.0, 0.9 * _thing(scene, what))
    return image


def _thing(scene: Scene, what: str) -> Image:
    """Mask of a piece of equipment."""
    x, y = scene.grid
    wire = 0.022
    if what == "drain":
        side = int(scene.random.choice(SIDES))
        path = side * x - 0.75 + 0.5 * (y - 0.45) ** 2 + 0.35 * np.clip(0.45 - y, 0, 1)
        return ridge(path, wire) * soft(0.4 - np.abs(y - 0.15), 0.05)
    if what == "tube":
        return ridge(x + 0.02, wire) * soft(-0.2 - y, 0.05)
    if what == "line":
        path = x + 0.14 - 0.35 * np.clip(-0.35 - y, 0, 1)
        return ridge(path, wire) * soft(0.05 - y, 0.05)
    centres = [(0.0, -0.25 + 0.14 * step) for step in range(5)]
    if what == "electrodes":
        centres = [(side * 0.55 + scene.random.normal(0, 0.05), level) for side in SIDES for level in (-0.5, 0.3)]
    spots: Image = np.max([bump(x, y, centre, (0.045, 0.03)) for centre in centres], axis=0)
    return spots
