"""Cards: what a model is, what its training guarantees, what that does not cover, and who vouches.

A bundle's card is made from its checked fields on the side that reads them: HTML from another house would be code in
your browser, so none travels. A run's has the same form before it is a bundle, as have the data sheets of the report.
"""

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any, Final, NamedTuple

from dpdt.base.console import printable
from dpdt.base.vocabulary import format_bound
from dpdt.bundle.manifest import recorded_input
from dpdt.bundle.model import Bundle, weights_sha256
from dpdt.runs.config import labels_of
from dpdt.runs.read import Run
from dpdt.study.settings import ShardSettings

__all__ = ["NOTICE", "Card", "Part", "bundle_card", "html_card", "markdown_card", "plain_markdown", "run_card"]

NOTICE: Final = "Not a medical device. For research; no diagnosis may rest on it."
SCORES: Final = "Scores are the sigmoid of the network's outputs; they are not calibrated."
GUARANTEE: Final = {
    "mechanism": "mechanism",
    "unit": "privacy unit",
    "neighbouring_relation": "neighbouring relation",
    "epsilon": "epsilon",
    "delta": "delta",
    "num_units": "units",
    "sample_rate": "sample rate",
    "noise_multiplier": "noise multiplier",
    "accounted_noise_multiplier": "noise multiplier, less rounding",
    "max_grad_norm": "clipping norm",
    "num_steps": "steps",
    "accountant": "accountant",
    "randomness": "randomness",
}
BOUNDS: Final = ("epsilon", "delta")


class Part(NamedTuple):
    """A chapter of a card: sentences, then a table of two columns."""

    title: str
    texts: Sequence[str] = ()
    rows: Sequence[tuple[str, str]] = ()


class Card(NamedTuple):
    """A card in either form."""

    title: str
    parts: Sequence[Part]


def markdown_card(card: Card) -> str:
    """The card in Markdown."""
    lines = [f"# {card.title}", "", f"**{NOTICE}**"]
    for part in card.parts:
        lines += ["", f"## {part.title}"]
        lines += [line for text in part.texts for line in ("", plain_markdown(text))]
        if part.rows:
            lines += ["", "| | |", "|---|---|"]
            lines += [f"| {plain_markdown(name)} | {plain_markdown(value)} |" for name, value in part.rows]
    return "\n".join(lines) + "\n"


def html_card(card: Card) -> str:
    """The card as a page: no script, no network, every text escaped."""
    title = escape(card.title)
    body = [f"<h1>{title}</h1>", f"<p><strong>{escape(NOTICE)}</strong></p>"]
    for part in card.parts:
        body += [f"<h2>{escape(part.title)}</h2>", *(f"<p>{escape(text)}</p>" for text in part.texts)]
        cells = (f'<tr><th scope="row">{escape(name)}</th><td>{escape(value)}</td></tr>' for name, value in part.rows)
        body += ["<table>", *cells, "</table>"] if part.rows else []
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        f"<title>{title}</title>\n<style>:root {{ color-scheme: light dark }} body {{ font: 16px/1.5 sans-serif; "
        "max-width: 46rem; margin: 2rem auto; padding: 0 1rem; overflow-wrap: anywhere }\nth { text-align: left; "
        "font-weight: normal; opacity: .75; padding-right: 1.5rem; vertical-align: top }</style></head>\n<body>\n"
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


def bundle_card(bundle: Bundle) -> Card:
    """Of another hospital's model, or of one's own that is to leave."""
    manifest = bundle.manifest
    arm = "without DP" if manifest.target_epsilon is None else f"DP, target epsilon {manifest.target_epsilon:g}"
    thresholds = [(name, "none" if value is None else f"{value:g}") for name, value in manifest.thresholds.items()]
    provenance = manifest.provenance
    facts = [("run", provenance.run_id), *provenance.versions.items(), *provenance.codecs.items()]
    facts += [(f"{name} (under the hospital's own key)", value) for name, value in provenance.hashes.items()]
    facts += [("weights, SHA-256", weights_sha256(bundle.weights)), ("file, SHA-256", bundle.sha256)]
    facts += [("signed by", bundle.signer or "not checked")]
    synthetic = ["Trained on synthetic data."] if manifest.synthetic else []
    use = [*synthetic, _text(manifest.intended_use), f"Licence: {_text(manifest.licence)}"]
    parts = [
        Part("Intended use and licence", use),
        *_privacy(manifest.statement),
        *_network(manifest.network.model_dump(), manifest.input),
        Part(
            "Labels and thresholds",
            [
                f"{SCORES} A score at or above the threshold is called positive. Thresholds come from validation "
                "patients of the hospital, whom epsilon does not cover; they are rounded, and there is none where few "
                "patients stand behind it."
            ],
            thresholds,
        ),
        Part("Where it comes from", (), [(_text(name), _text(value)) for name, value in facts]),
    ]
    return Card(f"Radiograph model of {manifest.site} ({arm}, seed {manifest.seed})", parts)


def run_card(run: Run, results: Sequence[tuple[str, str]] = (), *, name: str = "") -> Card:
    """Of a model of one's own; its weights stay where they are.

    Args:
        run: A training with a privacy statement, or the pretraining.
        results: What its tests found, as rows.
        name: Of the model; default: the run's title.
    """
    settings = run.config["settings"]
    network = {key: settings["model"].get(key) for key in ("name", "width", "in_channels")}
    shards = ShardSettings.model_validate(ShardSettings.deciding_of(settings.get("shards", {})))
    facts = {"run": run.run_id, **run.config.get("versions", {}), "weights": f"runs/{run.run_id}, not sent anywhere"}
    parts = [
        *([Part("Data", ["Trained on synthetic data."])] if run.config.get("synthetic") else []),
        *_privacy(run.privacy() or {}),
        *([Part("Results on test patients", (), results)] if results else []),
        *_network(network, recorded_input(shards)),
        Part("Labels", [SCORES], [(label, "") for label in labels_of(run.config)]),
        Part("Where it comes from", (), [(_text(key), _text(value)) for key, value in facts.items()]),
    ]
    return Card(name or run.title, parts)


def _privacy(statement: Mapping[str, Any]) -> Iterator[Part]:
    rows = [(name, _text(statement.get(key), up=key in BOUNDS)) for key, name in GUARANTEE.items()]
    words = _text(statement.get("paragraph") or "There is no privacy statement yet.")
    yield Part("Privacy", [words], [row for row in rows if row[1] not in ("–", "none")])
    releases = statement.get("other_releases")
    released = [
        f"{_text(item.get('what'))}: {_text(item.get('source'))}. Accounting: {_text(item.get('accounted'))}."
        for item in (releases if isinstance(releases, list) else ())
        if isinstance(item, dict)
    ]
    yield Part("What the guarantee does not cover", released)


def _network(network: Mapping[str, Any], pixels: Mapping[str, Any]) -> Iterator[Part]:
    yield Part("Network", (), [(name, _text(value)) for name, value in network.items()])
    words = "Bytes of the pixels after these settings, divided by 255. docs/preprocessing.md has their meaning."
    yield Part("Input", [words], [(name, _text(value)) for name, value in pixels.items()])


def _text(value: Any, *, up: bool = False) -> str:
    """A value of the bundle as one line; control characters could speak to a terminal."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return format_bound(value, digits=4) if up else f"{value:.6g}"
    return printable(" ".join(str(value).split()))
