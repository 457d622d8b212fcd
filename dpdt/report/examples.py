"""A few test images of each hospital, for a look at their quality: `report.example_images`.

They are patients' images, so they stand in a file of their own beside the report's folder: MLflow gets that folder, and
nothing sends or links this file. They are of test splits, never of those that a model with DP was trained on.
"""

import base64
import io
from html import escape
from pathlib import Path
from typing import Final

import numpy as np

from dpdt.base.files import write_text
from dpdt.errors import DpdtError
from dpdt.report.names import domain_name
from dpdt.study import Study

__all__ = ["write_examples"]

MOST: Final = 12  # images a hospital
PAGE: Final = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>body {{ font: 16px/1.5 sans-serif; margin: 2rem; background: #14181c; color: #e4e8ec }}
img {{ width: 10rem; margin: .25rem }}</style></head>
<body><h1>{title}</h1>
<p><strong>Patients' images: keep this file where the radiographs may be.</strong> Drawn at random from the test
patients of each hospital, as the networks see them; no training with DP saw them, and ε does not cover them.</p>
{body}
</body></html>
"""


def write_examples(study: Study) -> Path | None:
    """Write `examples.html`, or remove what a former study file asked for; its place, None where it is not wanted."""
    path = study.paths.examples
    if not study.report.example_images:
        path.unlink(missing_ok=True)
        return None
    body = "\n".join(f"<h2>{escape(domain_name(d))}</h2>\n<p>{_grid(study, d)}</p>" for d in study.test_domains)
    write_text(path, PAGE.format(title=f"{escape(study.name)}: examples of test images", body=body))
    return path


def _grid(study: Study, domain: str) -> str:
    from PIL import Image

    from dpdt.shards.dataset import load_split

    try:
        data = load_split(study.views[0], domain, "test")
    except DpdtError:  # as in the report: what is there is shown
        return "No shards of this hospital yet."
    chosen = np.sort(np.random.default_rng(study.study.seed).permutation(len(data))[:MOST])
    found = []
    for number, pixels in enumerate(data.images(chosen), start=1):
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, format="PNG")
        text = base64.b64encode(stream.getvalue()).decode()
        found.append(f'<img alt="Test image {number} of {len(chosen)}" src="data:image/png;base64,{text}">')
    return "\n".join(found)
