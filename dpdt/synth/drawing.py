"""Pseudo-radiographs: lungs, heart, ribs, spine and diaphragm as soft shapes, and five findings drawn into them.

Coordinates: x to the image's right (the patient's left), y down, both 0 in the middle of the chest; the thorax is about
1.5 wide and 1.6 high. `xl` is the distance from the midline on one side. Brightness is density, 0 (air) to 1 (bone).
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from dpdt.synth.hospitals import HOSPITALS, Hospital
from dpdt.synth.patients import Picture

__all__ = ["draw", "raw_shape"]

Image = NDArray[np.floating[Any]]

LUNG, TISSUE, HEART, SPINE, ABDOMEN, FLUID = 0.2, 0.55, 0.7, 0.85, 0.72, 0.7
LUNG_CENTRE, LUNG_WIDTH, LUNG_HEIGHT = 0.42, 0.34, 0.8
SIDES: Final = (-1, 1)
SELDOM: Final = 0.06
"""How often equipment is seen without the finding that it comes with."""


def raw_shape(hospital: Hospital, image_size: int) -> tuple[int, int]:
    """Height and width of a hospital's raw images."""
    height, width = hospital.aspect
    return round(image_size * height), round(image_size * width)


def draw(picture: Picture, *, image_size: int) -> Image:
    """Draw one radiograph.

    Args:
        picture: What to draw.
        image_size: Scale of the raw image, pixels.

    Returns:
        Brightness in 0..1, float32, shape raw_shape(...).
    """
    hospital = HOSPITALS[picture.domain]
    scene = _Scene(picture, hospital, raw_shape(hospital, image_size))
    image = _lateral(scene) if picture.quirk == "lateral" else _frontal(scene)
    return _develop(image, scene)


@dataclass(frozen=True)
class _Scene:
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


def _soft(distance: Image, width: float) -> Image:
    """0 outside, 1 inside, a smooth step `width` wide at distance 0."""
    step: Image = np.clip(distance / np.float32(width) + np.float32(0.5), 0, 1)
    return step * step * (3 - 2 * step)


def _bump(x: Image, y: Image, centre: tuple[float, float], size: tuple[float, float]) -> Image:
    """Gaussian hill of height 1."""
    dx, dy = (x - np.float32(centre[0])) / np.float32(size[0]), (y - np.float32(centre[1])) / np.float32(size[1])
    hill: Image = np.exp(-(dx * dx + dy * dy))
    return hill


def _towards(image: Image, level: float, mask: Image) -> Image:
    """Blend to a brightness where `mask` is 1."""
    return image + (np.float32(level) - image) * mask


def _frontal(scene: _Scene) -> Image:
    x, y = scene.grid
    picture, random, body = scene.picture, scene.random, scene.body
    sides = _sides(scene)
    collapse = picture.findings.get("atelectasis", 0.0)
    pull = (0.01 + 0.06 * collapse) * sides["atelectasis"] if collapse else 0.0
    image, lungs = _chest(scene, sides["atelectasis"], collapse)
    image += lungs * (np.float32(body["markings"]) * scene.texture(28) + 0.015 * scene.texture(60))
    for side in SIDES:
        image += 0.14 * _bump(x, y, (side * 0.2 + pull, 0.02), (0.11, 0.17)) * lungs
    image = _ribs(scene, image)
    image = _mediastinum(image, x - np.float32(pull) * _soft(0.2 + y, 1.0), x, y)
    image, heart = _heart(scene, image, pull)
    lungs = lungs * (1 - 0.7 * heart)
    for side in SIDES:
        image += np.float32(body["breast"]) * _bump(x, y, (side * 0.45, 0.42), (0.26, 0.2))
    if "pneumonia" in picture.findings:
        image = _pneumonia(scene, image, lungs, sides["pneumonia"])
    if collapse:
        image = _plate(scene, image, lungs, sides["atelectasis"], collapse)
    if "pleural_effusion" in picture.findings:
        image = _effusion(scene, image, sides["pleural_effusion"])
        if random.random() < 0.3:
            image = _effusion(scene, image, -sides["pleural_effusion"])
    image = _other(scene, image, lungs)
    return _equipment(scene, image)


def _chest(scene: _Scene, collapsed: int, collapse: float) -> tuple[Image, Image]:
    """Shoulders, trunk, abdomen, and the lungs cut out of them; also the mask of both lungs."""
    x, y = scene.grid
    distance = np.abs(x)
    trunk = np.float32(0.88 + scene.body["fat"]) + 0.9 * np.clip(-0.5 - y, 0, 0.4)
    neck = np.minimum(y + 1.02 - 0.3 * distance, np.float32(2.0))
    body = _soft(trunk - distance, 0.12) * np.maximum(_soft(neck, 0.15), _soft(0.2 - distance, 0.1))
    image = np.float32(TISSUE) * body
    lungs = np.zeros_like(image)
    for side in SIDES:
        amount = collapse if side == collapsed else 0.0
        below = _soft(y - _base(scene, side, amount), 0.05) * _soft(side * x, 0.1)
        image = _towards(image, ABDOMEN, below * body)
        lungs = np.maximum(lungs, _lung(scene, side, amount))
    return _towards(image, LUNG, lungs), lungs


def _mediastinum(image: Image, centre: Image, x: Image, y: Image) -> Image:
    """Great vessels, spine and the dark windpipe."""
    image = _towards(image, 0.68, 0.9 * _soft(0.12 - np.abs(centre), 0.09) * _soft(0.65 - y, 0.2))
    image = _towards(image, SPINE, 0.45 * _soft(0.075 - np.abs(x), 0.05))
    windpipe = _soft(0.032 - np.abs(centre), 0.03) * _soft(-0.22 - y, 0.1)
    return image - 0.16 * windpipe


def _sides(scene: _Scene) -> dict[str, int]:
    """On which side each finding is."""
    return {name: int(scene.random.choice(SIDES)) for name in ("pneumonia", "atelectasis", "pleural_effusion")}


def _base(scene: _Scene, side: int, collapse: float) -> Image:
    """The dome of the diaphragm on one side: y of its upper edge; the right one stands higher, volume loss lifts it."""
    away = (side * scene.grid[0] - 0.38) / np.float32(0.36)
    rest = 0.5 + scene.body["right"] if side < 0 else 0.56 + scene.body["left"]
    lifted = 0.03 + 0.13 * collapse if collapse else 0.0
    return np.float32(rest - lifted) + 0.16 * away * away


def _lung(scene: _Scene, side: int, collapse: float) -> Image:
    """Mask of one lung; volume loss raises its diaphragm."""
    x, y = scene.grid
    xl = side * x
    dx = (xl - LUNG_CENTRE) / np.float32(LUNG_WIDTH)
    dy = np.minimum(y - 0.1, 0) / np.float32(LUNG_HEIGHT)
    inside = _soft(1 - np.sqrt(dx * dx + dy * dy), 0.14)
    return inside * _soft(_base(scene, side, collapse) - y, 0.05)


def _ribs(scene: _Scene, image: Image) -> Image:
    x, y = scene.grid
    distance = np.abs(x)
    cage = _soft(0.84 - distance, 0.06) * _soft(distance - 0.06, 0.08) * _soft(0.6 - y, 0.3) * _soft(y + 0.85, 0.2)
    amount = np.float32(scene.body["ribs"])
    turn = np.float32(2 * np.pi)
    behind = np.cos(turn * (6.2 * (y + 0.28 * distance - 0.5 * distance * distance) + scene.body["phase"]))
    before = np.cos(turn * (4.6 * (y - 0.75 * distance) + scene.body["phase"] + 0.3))
    image = image + amount * cage * (np.clip(behind, 0, 1) + 0.5 * np.clip(before, 0.3, 1) - 0.15)
    for side in SIDES:
        line = y + np.float32(0.62) + 0.22 * (side * x - 0.1)
        reach = _soft(0.72 - side * x, 0.06) * _soft(side * x - 0.1, 0.06)
        image += 0.2 * np.exp(-((line / np.float32(0.035)) ** 2)) * reach
    return image


def _heart(scene: _Scene, image: Image, pull: float) -> tuple[Image, Image]:
    """An ellipse whose width is the cardiothoracic ratio times the thorax' inner width; AP magnifies it.

    Also gives back its mask.
    """
    x, y = scene.grid
    picture, random = scene.picture, scene.random
    ratio = scene.body["heart"] + float(random.normal(0, 0.008)) + (0.02 if picture.view == "AP" else 0.0)
    strength = picture.findings.get("cardiomegaly", 0.0)
    if strength:
        ratio += 0.03 + 0.11 * strength
    half = ratio * (LUNG_CENTRE + LUNG_WIDTH)
    dx, dy = x - np.float32(0.08 + 0.12 * (ratio - 0.4) + pull), y - np.float32(0.33)
    along, across = 0.87 * dx + 0.5 * dy, 0.87 * dy - 0.5 * dx
    ellipse = np.sqrt((along / np.float32(1.06 * half)) ** 2 + (across / np.float32(0.14 + 0.4 * half)) ** 2)
    upper = 0.8 * _bump(dx, dy, (-0.02, -0.28), (0.16 + 0.1 * (ratio - 0.4), 0.2))
    mask = np.maximum(_soft(1 - ellipse, 0.14), upper)
    image = _towards(image, HEART, 0.9 * mask)
    knob = 0.25 * _bump(x, y, (0.13 + pull, -0.28), (0.07, 0.09))
    return image + knob * np.float32(0.4 + 0.006 * (picture.age - 55)), mask


def _pneumonia(scene: _Scene, image: Image, lungs: Image, side: int) -> Image:
    """One to three patchy, textured clouds in a lung, mostly below its middle."""
    x, y = scene.grid
    random, strength = scene.random, scene.picture.findings["pneumonia"]
    cloud = np.zeros_like(image)
    for _ in range(int(random.integers(1, 4))):
        centre = (side * random.uniform(0.25, 0.58), random.uniform(*scene.hospital.pneumonia_zone))
        size = random.uniform(0.13, 0.2) + 0.06 * strength
        cloud = np.maximum(cloud, _bump(x, y, centre, (size, size * random.uniform(0.8, 1.3))))
    patchy: Image = np.clip(0.75 + 0.4 * scene.texture(16), 0, 1.5)
    density: Image = np.float32(0.1 + 0.32 * strength) * cloud * patchy * lungs
    return image + density


def _plate(scene: _Scene, image: Image, lungs: Image, side: int, strength: float) -> Image:
    """Linear bands: thin, nearly level plates above the raised diaphragm."""
    x, y = scene.grid
    random = scene.random
    if random.random() < scene.hospital.lobar:
        wedge = _soft(0.34 - np.abs(side * x - 0.1), 0.2) * _soft(y - 0.05 - 0.8 * np.abs(side * x - 0.1), 0.12)
        return image + np.float32(0.1 + 0.22 * strength) * wedge * np.maximum(lungs, 0.3 * _soft(0.5 - y, 0.1))
    for _ in range(int(random.integers(1, 3))):
        slope, level = random.uniform(-0.35, 0.35), random.uniform(0.05, 0.36)
        middle = random.uniform(0.34, 0.46)
        xl = side * x - np.float32(middle)
        line = (y - np.float32(level) - np.float32(slope) * xl) / np.float32(random.uniform(0.02, 0.04))
        reach = _soft(np.float32(random.uniform(0.14, 0.26)) - np.abs(xl), 0.06)
        image = image + np.float32(0.06 + 0.28 * strength) * np.exp(-(line * line)) * reach * lungs
    return image


def _effusion(scene: _Scene, image: Image, side: int) -> Image:
    """Fluid: upright it fills the base up to a meniscus that rises to the side; lying it veils the whole lung."""
    x, y = scene.grid
    xl = side * x
    strength = scene.picture.findings["pleural_effusion"]
    dx = (xl - LUNG_CENTRE) / np.float32(LUNG_WIDTH)
    dy = np.minimum(y - 0.1, 0) / np.float32(LUNG_HEIGHT)
    inside = _soft(1 - np.sqrt(dx * dx + dy * dy), 0.14)
    rise = np.clip(xl - 0.3, 0, 1)
    if scene.random.random() >= scene.hospital.supine:
        surface = np.float32(0.68 - 0.36 * strength) - np.float32(0.6 + 1.0 * strength) * rise * rise
        return _towards(image, FLUID, 0.95 * inside * _soft(y - surface, 0.08))
    veil = np.clip(0.35 + 0.75 * y, 0, 1) * np.float32(0.15 + 0.5 * strength)
    return _towards(image, FLUID, inside * veil)


def _other(scene: _Scene, image: Image, lungs: Image) -> Image:
    """Things that are none of the five labels, but not healthy."""
    x, y = scene.grid
    random, other = scene.random, scene.picture.other
    if other == "nodule":
        for _ in range(int(random.integers(1, 4))):
            centre = (random.choice(SIDES) * random.uniform(0.3, 0.55), random.uniform(-0.4, 0.35))
            size = random.uniform(0.045, 0.08)
            dx, dy = x - np.float32(centre[0]), y - np.float32(centre[1])
            image = image + 0.35 * _soft(np.float32(size) - np.sqrt(dx * dx + dy * dy), 0.03) * lungs
    elif other == "fibrosis":
        net = np.abs(scene.texture(40)) * _soft(np.abs(x) - 0.3, 0.4)
        image = image + 0.16 * net * lungs
    elif other == "congestion":
        for side in SIDES:
            image = image + 0.26 * _bump(x, y, (side * 0.22, 0.0), (0.24, 0.3)) * lungs
    elif other == "device":
        box = _soft(0.1 - np.abs(x - 0.5), 0.02) * _soft(0.08 - np.abs(y + 0.42), 0.02)
        lead = np.exp(-(((x - 0.12 - 0.5 * (y + 0.1) ** 2) / np.float32(0.014)) ** 2))
        image = _towards(image, 1.0, np.maximum(box, 0.8 * lead * _soft(0.45 - np.abs(y + 0.05), 0.05)))
    return image


def _equipment(scene: _Scene, image: Image) -> Image:
    """What the hospital puts on or into those with a certain finding, and now and then on others."""
    for finding, (what, often) in scene.hospital.companions.items():
        present = finding in scene.picture.findings
        if scene.random.random() < (often if present else SELDOM):
            image = _towards(image, 1.0, 0.9 * _thing(scene, what))
    return image


def _thing(scene: _Scene, what: str) -> Image:
    """Mask of a piece of equipment."""
    x, y = scene.grid
    wire = np.float32(0.022)
    if what == "drain":
        side = int(scene.random.choice(SIDES))
        path = side * x - 0.75 + 0.5 * (y - 0.45) ** 2 + 0.35 * np.clip(0.45 - y, 0, 1)
        return np.exp(-((path / wire) ** 2)) * _soft(0.4 - np.abs(y - 0.15), 0.05)
    if what == "tube":
        return np.exp(-(((x + 0.02) / wire) ** 2)) * _soft(-0.2 - y, 0.05)
    if what == "line":
        path = x + 0.14 - 0.35 * np.clip(-0.35 - y, 0, 1)
        return np.exp(-((path / wire) ** 2)) * _soft(0.05 - y, 0.05)
    centres = [(0.0, -0.25 + 0.14 * step) for step in range(5)]
    if what == "electrodes":
        centres = [(side * 0.55 + scene.random.normal(0, 0.05), level) for side in SIDES for level in (-0.5, 0.3)]
    spots: Image = np.max([_bump(x, y, centre, (0.045, 0.03)) for centre in centres], axis=0)
    return spots


def _lateral(scene: _Scene) -> Image:
    """A view from the side: one lung field, the heart in front, the spine behind. Readers leave it out."""
    x, y = scene.grid
    image = np.float32(TISSUE) * _soft(0.75 - np.abs(x), 0.1)
    round_ = np.sqrt((x / np.float32(0.55)) ** 2 + (y / np.float32(0.8)) ** 2)
    image = _towards(image, LUNG + 0.1, _soft(1 - round_, 0.14) * _soft(0.5 + 0.3 * x - y, 0.05))
    image = _towards(image, HEART, 0.8 * _bump(x, y, (-0.25, 0.3), (0.26, 0.24)))
    image = _towards(image, SPINE, 0.8 * _soft(0.09 - np.abs(x - 0.5 + 0.12 * y * y), 0.05))
    return image + 0.05 * scene.texture(24)


def _develop(image: Image, scene: _Scene) -> Image:
    """Machine and room: sharpness, noise, contrast curve, borders, markers."""
    hospital, random = scene.hospital, scene.machine
    image = cv2.GaussianBlur(image, (0, 0), hospital.blur)
    if hospital.sharpen:
        image = image + np.float32(hospital.sharpen) * (image - cv2.GaussianBlur(image, (0, 0), 3.0))
    x, y = scene.grid
    image = image * (1 + np.float32(random.normal(0, 0.04)) * x + np.float32(random.normal(0, 0.04)) * y)
    image += np.float32(hospital.noise) * random.standard_normal(image.shape, dtype=np.float32)
    image = np.clip(image, 0, 1) ** np.float32(hospital.gamma * random.uniform(0.92, 1.08))
    curve = np.float32(hospital.curve)
    image = (np.tanh(curve * (image - 0.5)) / np.tanh(curve / 2) + 1) / 2
    return _mark(np.clip(image, 0, 1).astype(np.float32), scene)


def _mark(image: Image, scene: _Scene) -> Image:
    """Black borders, the side marker, text burnt in."""
    hospital, random = scene.hospital, scene.machine
    height, width = image.shape
    top, bottom = (int(random.uniform(0, hospital.collimation) * height) for _ in range(2))
    left, right = (int(random.uniform(0, hospital.collimation) * width) for _ in range(2))
    image[:top] = image[height - bottom :] = 0
    image[:, :left] = image[:, width - right :] = 0
    font, size = cv2.FONT_HERSHEY_SIMPLEX, height / 320
    ink = np.zeros(image.shape, np.uint8)
    if hospital.marker:
        column = int(width * (0.08 if hospital.marker in "RD" else 0.86))
        cv2.putText(ink, hospital.marker, (column, int(height * 0.16)), font, size * 1.4, 255, 2)
    if hospital.bedside_text and scene.picture.view == "AP":
        cv2.putText(ink, hospital.bedside_text, (int(width * 0.05), int(height * 0.95)), font, size, 255, 1)
    return np.maximum(image, ink.astype(np.float32) / 255)
