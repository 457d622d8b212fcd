"""Pseudo-radiographs: a chest of soft shapes, five findings drawn into it, and the machine that photographs it."""

import cv2
import numpy as np

from dpdt.cohort.synthetic.anatomy import draw_chest, draw_heart, draw_lateral, draw_mediastinum, draw_ribs
from dpdt.cohort.synthetic.findings import draw_atelectasis, draw_effusion, draw_equipment, draw_other, draw_pneumonia
from dpdt.cohort.synthetic.hospitals import Hospital
from dpdt.cohort.synthetic.picture import Picture
from dpdt.cohort.synthetic.scene import SIDES, Image, Scene, bump, soft

__all__ = ["draw", "raw_shape"]


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
    hospital = picture.hospital
    scene = Scene(picture, hospital, raw_shape(hospital, image_size))
    image = draw_lateral(scene) if picture.quirk == "lateral" else _frontal(scene)
    return _develop(image, scene)


def _frontal(scene: Scene) -> Image:
    """The chest from the front, and everything in it."""
    x, y = scene.grid
    picture, random, body = scene.picture, scene.random, scene.body
    sides = _sides(scene)
    collapse = picture.findings.get("atelectasis", 0.0)
    pull = (0.01 + 0.06 * collapse) * sides["atelectasis"] if collapse else 0.0
    image, lungs = draw_chest(scene, sides["atelectasis"], collapse)
    image += lungs * (np.float32(body["markings"]) * scene.texture(28) + 0.015 * scene.texture(60))
    for side in SIDES:
        image += 0.14 * bump(x, y, (side * 0.2 + pull, 0.02), (0.11, 0.17)) * lungs
    image = draw_ribs(scene, image)
    image = draw_mediastinum(image, x - np.float32(pull) * soft(0.2 + y, 1.0), x, y)
    image, heart = draw_heart(scene, image, pull)
    lungs = lungs * (1 - 0.7 * heart)
    for side in SIDES:
        image += np.float32(body["breast"]) * bump(x, y, (side * 0.45, 0.42), (0.26, 0.2))
    if "pneumonia" in picture.findings:
        image = draw_pneumonia(scene, image, lungs, sides["pneumonia"])
    if collapse:
        image = draw_atelectasis(scene, image, lungs, sides["atelectasis"], collapse)
    if "pleural_effusion" in picture.findings:
        image = draw_effusion(scene, image, sides["pleural_effusion"])
        if random.random() < 0.3:
            image = draw_effusion(scene, image, -sides["pleural_effusion"])
    image = draw_other(scene, image, lungs)
    return draw_equipment(scene, image)


def _sides(scene: Scene) -> dict[str, int]:
    """On which side each finding is."""
    return {name: int(scene.random.choice(SIDES)) for name in ("pneumonia", "atelectasis", "pleural_effusion")}


def _develop(image: Image, scene: Scene) -> Image:
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


def _mark(image: Image, scene: Scene) -> Image:
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
