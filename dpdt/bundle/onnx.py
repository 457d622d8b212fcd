"""A bundle's model in a second form, ONNX, for programs that are not dpdt: pixels in, scores out.

It has no preprocessing, privacy statement, self-test or checksum of its own; it names the bundle that has them. What a
user must do to a file before is docs/bundle.md; `dpdt apply` does it.
"""

import json
import warnings
from typing import Any, Final

import numpy as np

from dpdt.bundle.card import NOTICE
from dpdt.bundle.model import Bundle, network, scorer
from dpdt.errors import BundleError

__all__ = ["onnx_bytes"]

TOLERANCE: Final = 1e-5
"""Of a score, between torch and onnxruntime on the processor."""
PIXELS: Final = "uint8, gray, (images, size, size), as dpdt's preprocessing makes them with the settings of `input`"


def onnx_bytes(bundle: Bundle) -> bytes:
    """The model as ONNX: `pixels` (uint8, (images, size, size)) to `scores` (float32, (images, labels)).

    Args:
        bundle: The model; its self-test's pixels are run through the result, too.

    Raises:
        BundleError: The extra `onnx` is not installed, or onnxruntime's scores are not torch's.
    """
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401  # torch's exporter writes with it
    except ImportError as err:
        raise BundleError(
            f"--onnx needs onnx, onnxscript and onnxruntime ({err}). Install dpdt with its extra: pip install "
            "'dpdt[onnx]'."
        ) from err
    manifest = bundle.manifest
    model = _graph(bundle)
    about: dict[str, Any] = {
        "bundle_sha256": bundle.sha256,
        "site": manifest.site,
        "labels": manifest.labels,
        "pixels": PIXELS,
    }
    about |= {"input": manifest.input, "scores": "sigmoid, not calibrated", "notice": NOTICE}
    onnx.helper.set_model_props(model, {"dpdt": json.dumps(about)})
    onnx.checker.check_model(model)
    data: bytes = model.SerializeToString()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    (found,) = session.run(["scores"], {"pixels": bundle.pixels})
    off = float(np.abs(found - scorer(bundle, device="cpu")(bundle.pixels)).max())
    if not off <= TOLERANCE:
        raise BundleError(
            f"--onnx: its scores of the self-test differ by {off:.3g} from torch's, at most {TOLERANCE:g} is allowed. "
            "Send the bundle alone."
        )
    return data


def _graph(bundle: Bundle) -> Any:
    """The network with what is done to pixels before it and to its outputs after it."""
    import torch

    class Scores(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network(bundle)

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            return torch.sigmoid(self.network(pixels.unsqueeze(1).float() / 255))

    with warnings.catch_warnings():  # torch's own, of its use of itself
        warnings.simplefilter("ignore", FutureWarning)
        try:
            program = torch.onnx.export(
                Scores().eval(),
                (torch.from_numpy(np.stack([bundle.pixels[0]] * 2)),),
                dynamo=True,
                verbose=False,
                input_names=["pixels"],
                output_names=["scores"],
                dynamic_shapes={"pixels": {0: torch.export.Dim("images")}},
            )
        except torch.onnx.OnnxExporterError as err:
            why = str(err.__cause__ or err).strip().splitlines()[0]
            raise BundleError(
                f"--onnx: torch cannot write this network as ONNX ({why}). Send the bundle alone."
            ) from err
    model = program.model_proto  # type: ignore[union-attr]  # None of the older exporter alone
    graph = model.graph
    for part in (graph, *graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        del part.metadata_props[:]  # lines and folders of this machine's code
        part.doc_string = ""
    return model
