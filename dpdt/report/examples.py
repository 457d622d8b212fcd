"""A few test images of each hospital, for a look at their quality: `report.example_images`.

They are patients' images, so they stand in a file of their own beside the report's folder: MLflow gets that folder, and
nothing sends or links this file. They are of test splits, never of those that a model with DP was trained on. A few
have an occlusion map of one model.
"""

import base64
import io
from html import escape
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dpdt.base.files import write_text
from dpdt.errors import DpdtError
from dpdt.report.names import domain_name, label_name
from dpdt.report.occlusion import occlusion, shown_model
from dpdt.study import Study

__all__ = ["write_examples"]

MOST: Final = 12  # images a hospital
MAPS: Final = 4  # of them that have a map: a map needs the scores of 65 images
PAGE: Final = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>body {{ font: 16px/1.5 sans-serif; margin: 2rem; background: #14181c; color: #e4e8ec }}
img, figure {{ width: min(10rem, 38vw); margin: .25rem }}
figure {{ display: inline-block; vertical-align: top; font-size: .875rem }}
figure img {{ width: 100%; margin: 0 }}</style></head>
<body><h1>{title}</h1>
<p><strong>Patients' images: keep this file where the radiographs may be.</strong> Drawn at random from the test
patients of each hospital, as the networks see them; no training with DP saw them, and ε does not cover them.</p>
<p><strong>The maps in orange explain nothing reliably.</strong> A square of an eighth of the image's side is painted
over with the image's mean grey, place by place; the more the highest of one model's scores falls, the more orange a
place is, scaled image by image. Maps of this kind found the findings of radiographs less well than radiologists
(Saporta et al., Nature Machine Intelligence 4:867, 2022), and others failed tests of whether they can be trusted (Arun
et al., Radiology: Artificial Intelligence 3:e200267, 2021). Do not judge a model or a patient by them.</p>
{body}
</body></html>
"""


def write_examples(study: Study) -> Path | None:
    """Write `examples.html`, or remove what a former study file asked for; its place, None where it is not wanted."""
    path = study.paths.examples
    if not study.report.example_images:
        path.unlink(missing_ok=True)
        return None
    view = study.views[0]
    body = "\n".join(f"<h2>{escape(domain_name(d))}</h2>\n{_of_domain(view, d)}" for d in study.test_domains)
    write_text(path, PAGE.format(title=f"{escape(study.name)}: examples of test images", body=body))
    return path


def _of_domain(study: Study, domain: str) -> str:
    from dpdt.shards.dataset import load_split

    try:
        data = load_split(study, domain, "test")
    except DpdtError:  # as in the report: what is there is shown
        return "<p>No shards of this hospital yet.</p>"
    chosen = np.sort(np.random.default_rng(study.study.seed).permutation(len(data))[:MOST])
    images = data.images(chosen)
    shown = [_image(pixels, f"Test image {n} of {len(images)}") for n, pixels in enumerate(images, start=1)]
    return "\n".join(["<p>", *shown, "</p>", *_maps(study, domain, images[:MAPS])])


def _maps(study: Study, domain: str, images: NDArray[np.uint8]) -> list[str]:
    try:
        found = shown_model(study, domain)
    except DpdtError as err:
        return [f"<p>No maps: {escape(str(err))}</p>"]
    if found is None:
        return ["<p>No maps: no model of the study is tested yet.</p>"]
    name, score = found
    lines = [f"<h3>An illustration that explains nothing reliably: occlusion maps of {escape(name)}</h3>"]
    for number, pixels in enumerate(images, start=1):
        one = occlusion(score, pixels)
        label, fall = label_name(study.study.labels[one.label]), max(0.0, float(one.fall.max()))
        image = _image(one.painted(pixels), f"Test image {number} with the falls of its score of {label} in orange")
        text = f"Image {number}: {label}, score {one.score:.2f}; most orange: {fall:.2g} lower"
        lines.append(f"<figure>{image}<figcaption>{escape(text)}</figcaption></figure>")
    return lines


def _image(pixels: NDArray[np.uint8], text: str) -> str:
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format="PNG")
    return f'<img alt="{escape(text)}" src="data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}">'
