"""The model card: what a registered model is, what its training guarantees, and what that does not cover."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from dpdt.runs.read import Run
from dpdt.tracking.metrics import Point

__all__ = ["model_card"]

GUARANTEE: Final = {
    "unit": "privacy unit",
    "neighbouring_relation": "neighbouring relation",
    "mechanism": "mechanism",
    "epsilon": "epsilon",
    "delta": "delta",
    "num_units": "units",
    "sample_rate": "sample rate",
    "noise_multiplier": "noise multiplier",
    "max_grad_norm": "clipping norm",
    "num_steps": "steps",
    "accountant": "accountant",
}
SHOWN: Final = ("auc", "auc_off_domain", "audit/epsilon_lower")


def model_card(run: Run, statement: Mapping[str, Any], values: Sequence[Point]) -> str:
    """The card in Markdown; the privacy statement comes first.

    Args:
        run: The run that trained the model.
        statement: Its privacy statement.
        values: Values of its evaluation.
    """
    guarantee = [
        (name, _value_text(statement[key]))
        for key, name in GUARANTEE.items()
        if statement.get(key) not in (None, "none")
    ]
    shown = [(point.key, f"{point.value:.3f}") for point in values if point.key in SHOWN]
    released = [
        f"- {item.get('what')}: {item.get('source')}. Accounting: {item.get('accounted')}."
        for item in statement.get("other_releases", ())
    ]
    return "\n".join(
        [
            f"# {run.title}",
            "",
            *(["**Trained on synthetic data.**", ""] if run.config.get("synthetic") else []),
            str(statement.get("paragraph") or "There is no privacy statement yet."),
            "",
            *_markdown_table("guarantee", guarantee),
            *_markdown_table("test result", shown),
            "Also computed from private data:",
            "",
            *released,
            "",
            f"The weights stay in the study's folder: `runs/{run.run_id}/checkpoints/final.pt`. Not a medical device.",
            "",
        ]
    )


def _markdown_table(name: str, rows: Sequence[tuple[str, str]]) -> list[str]:
    """A Markdown table of two columns; nothing if it has no rows."""
    if not rows:
        return []
    return [f"| {name} | value |", "|---|---|", *(f"| {key} | {value} |" for key, value in rows), ""]


def _value_text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
