"""The chest without findings: trunk, lungs, diaphragm, ribs, vessels, heart. `xl` is the distance from the midline."""

import numpy as np

from dpdt.cohort.synthetic.scene import SIDES, Image, Scene, bump, ridge, soft, towards

__all__ = ["draw_chest", "draw_heart", "draw_lateral", "draw_mediastinum", "draw_ribs", "lung_outline"]

LUNG, TISSUE, HEART, SPINE, ABDOMEN = 0.2, 0.55, 0.7, 0.85, 0.72
LUNG_CENTRE, LUNG_WIDTH, LUNG_HEIGHT = 0.42, 0.34, 0.8


def draw_chest(scene: Scene, collapsed: int, collapse: float) -> tuple[Image, Image]:
    """Shoulders, trunk, abdomen, and the lungs cut out of them; also the mask of both lungs."""
    x, y = scene.grid
    distance = np.abs(x)
    trunk = np.float32(0.88 + scene.body["fat"]) + 0.9 * np.clip(-0.5 - y, 0, 0.4)
    neck = np.minimum(y + 1.02 - 0.3 * distance, np.float32(2.0))
    body = soft(trunk - distance, 0.12) * np.maximum(soft(neck, 0.15), soft(0.2 - distance, 0.1))
    image = np.float32(TISSUE) * body
    lungs = np.zeros_like(image)
    for side in SIDES:
        amount = collapse if side == collapsed else 0.0
        below = soft(y - _base(scene, side, amount), 0.05) * soft(side * x, 0.1)
        image = towards(image, ABDOMEN, below * body)
        lungs = np.maximum(lungs, _lung(scene, side, amount))
    return towards(image, LUNG, lungs), lungs


def lung_outline(scene: Scene, side: int) -> Image:
    """Mask of one side's pleural space, open at its base."""
    x, y = scene.grid
    dx = (side * x - LUNG_CENTRE) / np.float32(LUNG_WIDTH)
    dy = np.minimum(y - 0.1, 0) / np.float32(LUNG_HEIGHT)
    return soft(1 - np.sqrt(dx * dx + dy * dy), 0.14)


def _lung(scene: Scene, side: int, collapse: float) -> Image:
    """Mask of one lung; volume loss raises its diaphragm."""
    return lung_outline(scene, side) * soft(_base(scene, side, collapse) - scene.grid[1], 0.05)


def _base(scene: Scene, side: int, collapse: float) -> Image:
    """The dome of the diaphragm on one side: y of its upper edge; the right one stands higher, volume loss lifts it."""
    away = (side * scene.grid[0] - 0.38) / np.float32(0.36)
    rest = 0.5 + scene.body["right"] if side < 0 else 0.56 + scene.body["left"]
    lifted = 0.03 + 0.13 * collapse if collapse else 0.0
    return np.float32(rest - lifted) + 0.16 * away * away


def draw_ribs(scene: Scene, image: Image) -> Image:
    """Arcs that fall to the side behind and rise in front, and the collar bones."""
    x, y = scene.grid
    distance = np.abs(x)
    cage = soft(0.84 - distance, 0.06) * soft(distance - 0.06, 0.08) * soft(0.6 - y, 0.3) * soft(y + 0.85, 0.2)
    amount = np.float32(scene.body["ribs"])
    turn = np.float32(2 * np.pi)
    behind = np.cos(turn * (6.2 * (y + 0.28 * distance - 0.5 * distance * distance) + scene.body["phase"]))
    before = np.cos(turn * (4.6 * (y - 0.75 * distance) + scene.body["phase"] + 0.3))
    image = image + amount * cage * (np.clip(behind, 0, 1) + 0.5 * np.clip(before, 0.3, 1) - 0.15)
    for side in SIDES:
        line = y + np.float32(0.62) + 0.22 * (side * x - 0.1)
        reach = soft(0.72 - side * x, 0.06) * soft(side * x - 0.1, 0.06)
        image += 0.2 * ridge(line, 0.035) * reach
    return image


def draw_mediastinum(image: Image, centre: Image, x: Image, y: Image) -> Image:
    """Great vessels, spine and the dark windpipe."""
    image = towards(image, 0.68, 0.9 * soft(0.12 - np.abs(centre), 0.09) * soft(0.65 - y, 0.2))
    image = towards(image, SPINE, 0.45 * soft(0.075 - np.abs(x), 0.05))
    windpipe = soft(0.032 - np.abs(centre), 0.03) * soft(-0.22 - y, 0.1)
    return image - 0.16 * windpipe


def draw_heart(scene: Scene, image: Image, pull: float) -> tuple[Image, Image]:
    """An ellipse: its width is the cardiothoracic ratio times the thorax' inner width; AP magnifies it.

    Also returns its mask.
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
    upper = 0.8 * bump(dx, dy, (-0.02, -0.28), (0.16 + 0.1 * (ratio - 0.4), 0.2))
    mask = np.maximum(soft(1 - ellipse, 0.14), upper)
    image = towards(image, HEART, 0.9 * mask)
    knob = 0.25 * bump(x, y, (0.13 + pull, -0.28), (0.07, 0.09))
    return image + knob * np.float32(0.4 + 0.006 * (picture.age - 55)), mask


def draw_lateral(scene: Scene) -> Image:
    """A view from the side: one lung field, the heart in front, the spine behind. Readers leave it out."""
    x, y = scene.grid
    image = np.float32(TISSUE) * soft(0.75 - np.abs(x), 0.1)
    round_ = np.sqrt((x / np.float32(0.55)) ** 2 + (y / np.float32(0.8)) ** 2)
    image = towards(image, LUNG + 0.1, soft(1 - round_, 0.14) * soft(0.5 + 0.3 * x - y, 0.05))
    image = towards(image, HEART, 0.8 * bump(x, y, (-0.25, 0.3), (0.26, 0.24)))
    image = towards(image, SPINE, 0.8 * soft(0.09 - np.abs(x - 0.5 + 0.12 * y * y), 0.05))
    return image + 0.05 * scene.texture(24)
