"""The model card: what a bundle's model is, what its training guarantees, what that does not cover, and who vouches.

Both forms are made here from the checked fields, on the side that reads them: HTML from another house would be code in
your browser, so none travels.
"""

from collections.abc import Sequence
from html import escape
from typing import Any, Final, NamedTuple

from dpdt.base.console import printable
from dpdt.base.vocabulary import format_bound
from dpdt.bundle.manifest import Manifest
from dpdt.bundle.model import Bundle, weights_sha256

__all__ = ["NOTICE", "html_card", "markdown_card", "plain_markdown"]

NOTICE: Final = "Not a medical device. For research; no diagnosis may rest on it."
GUARANTEE: Final = {
    "mechanism": "mechanism",
    "unit": "privacy unit",
    "neighbouring_relation": "neighbouring relation",
    "epsilon": "epsilon",
    "delta": "delta",
    "num_units": "units",
    "sample_rate": "sample rate",
    "accounted_noise_multiplier": "noise multiplier, less rounding",
    "max_grad_norm": "clipping norm",
    "num_steps": "steps",
    "accountant": "accountant",
    "randomness": "randomness",
}
BOUNDS: Final = ("epsilon", "delta")


class _Part(NamedTuple):
    title: str
    texts: Sequence[str] = ()
    rows: Sequence[tuple[str, str]] = ()


def markdown_card(bundle: Bundle) -> str:
    """The card in Markdown."""
    lines = [f"# {_title(bundle.manifest)}", "", f"**{NOTICE}**"]
    for part in _parts(bundle):
        lines += ["", f"## {part.title}"]
        lines += [line for text in part.texts for line in ("", plain_markdown(text))]
        if part.rows:
            lines += [
                "",
                "| | |",
                "|---|---|",
                *(f"| {plain_markdown(name)} | {plain_markdown(value)} |" for name, value in part.rows),
            ]
    return "\n".join(lines) + "\n"


def html_card(bundle: Bundle) -> str:
    """The card as a page: no script, no network, every text escaped."""
    title = escape(_title(bundle.manifest))
    body = [f"<h1>{title}</h1>", f"<p><strong>{escape(NOTICE)}</strong></p>"]
    for part in _parts(bundle):
        body += [f"<h2>{escape(part.title)}</h2>", *(f"<p>{escape(text)}</p>" for text in part.texts)]
        cells = (f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in part.rows)
        body += ["<table>", *cells, "</table>"] if part.rows else []
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        f"<title>{title}</title>\n<style>body {{ font: 16px/1.5 sans-serif; max-width: 46rem; margin: 2rem auto; "
        "padding: 0 1rem }\nth { text-align: left; font-weight: normal; color: #5a6570; padding-right: 1.5rem; "
        "vertical-align: top }\ntd { overflow-wrap: anywhere }</style></head>\n<body>\n"
        + "\n".join(body)
        + "\n</body></html>\n"
    )


def plain_markdown(text: str) -> str:
    r"""Words of another house in Markdown: no HTML, link, image or cell that a viewer would make of them.

    >>> plain_markdown("<b> ![x](http://a) |")
    '&lt;b> !\\[x](http://a) &#124;'
    """
    for mark, plain in (("&", "&amp;"), ("<", "&lt;"), ("[", r"\["), ("|", "&#124;")):
        text = text.replace(mark, plain)
    return text


def _title(manifest: Manifest) -> str:
    arm = "without DP" if manifest.target_epsilon is None else f"DP, target epsilon {manifest.target_epsilon:g}"
    return f"Radiograph model of {manifest.site} ({arm}, seed {manifest.seed})"


def _parts(bundle: Bundle) -> list[_Part]:
    manifest, statement = bundle.manifest, bundle.manifest.statement
    guarantee = [(name, _text(statement.get(key), up=key in BOUNDS)) for key, name in GUARANTEE.items()]
    releases = statement.get("other_releases")
    released = [
        f"{_text(item.get('what'))}: {_text(item.get('source'))}. Accounting: {_text(item.get('accounted'))}."
        for item in (releases if isinstance(releases, list) else ())
        if isinstance(item, dict)
    ]
    thresholds = [(name, "none" if value is None else f"{value:g}") for name, value in manifest.thresholds.items()]
    provenance = manifest.provenance
    facts = [("run", provenance.run_id), *provenance.versions.items(), *provenance.codecs.items()]
    facts += [(f"{name} (under the hospital's own key)", value) for name, value in provenance.hashes.items()]
    facts += [("weights, SHA-256", weights_sha256(bundle.weights)), ("file, SHA-256", bundle.sha256)]
    facts += [("signed by", bundle.signer or "not checked")]
    synthetic = ["Trained on synthetic data."] if manifest.synthetic else []
    return [
        _Part(
            "Intended use and licence",
            [*synthetic, _text(manifest.intended_use), f"Licence: {_text(manifest.licence)}"],
        ),
        _Part("Privacy", [_text(statement["paragraph"])], [(name, value) for name, value in guarantee if value != "–"]),
        _Part("What the guarantee does not cover", released),
        _Part("Network", (), [(name, _text(value)) for name, value in manifest.network.model_dump().items()]),
        _Part(
            "Input",
            ["Bytes of the pixels after these settings, divided by 255. docs/preprocessing.md has their meaning."],
            [(name, _text(value)) for name, value in manifest.input.items()],
        ),
        _Part(
            "Labels and thresholds",
            [
                "Scores are the sigmoid of the network's outputs; they are not calibrated. A score at or above the "
                "threshold is called positive. Thresholds come from validation patients of the hospital, whom epsilon "
                "does not cover; they are rounded, and there is none where few patients stand behind it."
            ],
            thresholds,
        ),
        _Part("Where it comes from", (), [(_text(name), _text(value)) for name, value in facts]),
    ]


def _text(value: Any, *, up: bool = False) -> str:
    """A value of the bundle as one line; control characters could speak to a terminal."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return format_bound(value, digits=4) if up else f"{value:.6g}"
    return printable(" ".join(str(value).split()))
