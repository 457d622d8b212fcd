"""Opening a bundle: its bytes, its signature, what it says, its weights; then a self-test before it scores anything."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from dpdt.bundle.container import read_bytes, unpack
from dpdt.bundle.manifest import Manifest, validated
from dpdt.bundle.self_test import pixels_of
from dpdt.bundle.signature import signed_by
from dpdt.errors import BundleError

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Bundle", "Score", "checked_scorer", "network", "open_bundle", "parse_bundle", "scorer", "weights_sha256"]

WEIGHTS: Final = "weights."
PIXEL_TOLERANCE: Final = 0.25
"""Grey levels that a self-test's pixels may differ by on average: another processor's last bits, and no more."""
SCORE_TOLERANCE: Final = 1e-3

Score = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""Pixels (k, size, size) to probabilities (k, labels)."""


@dataclass(frozen=True)
class Bundle:
    """A bundle that is whole.

    Attributes:
        manifest: What it says.
        weights: float32, by the network's names.
        files: The self-test's image files.
        pixels: What their preprocessing must give, (files, size, size).
        sha256: Of the whole file.
        signer: Who signed it, by the list of trusted keys; "" where none was asked for.
    """

    manifest: Manifest
    weights: Mapping[str, NDArray[np.float32]]
    files: list[bytes]
    pixels: NDArray[np.uint8]
    sha256: str
    signer: str = ""


def open_bundle(path: Path, *, signers: Path | None = None) -> Bundle:
    """Read and check a bundle. Nothing of it is executed, and nothing is written.

    Args:
        path: The file.
        signers: Trusted keys; then it must be signed by one of them.

    Raises:
        BundleError: It is not whole, not signed by a trusted key, or not of a kind that this dpdt can use.
    """
    data = read_bytes(path)
    signer = "" if signers is None else signed_by(data, path, signers)
    return parse_bundle(data, str(path), signer=signer)


def parse_bundle(data: bytes, name: str, *, signer: str = "") -> Bundle:
    """As `open_bundle`, of bytes."""
    plain, tensors = unpack(data, name)
    manifest = validated(plain, name)
    size, tests = manifest.shards.size, range(len(manifest.self_test))
    weights = {key.removeprefix(WEIGHTS): value for key, value in tensors.items() if key.startswith(WEIGHTS)}
    expected = {f"{WEIGHTS}{key}" for key in weights} | {
        f"test.{n}.{part}" for n in tests for part in ("file", "pixels")
    }
    if expected != tensors.keys():
        odd = sorted(expected ^ tensors.keys())[0]
        raise BundleError(f"{name}: the tensor {odd[:60]!r} is missing or unknown. Ask for the file again.")
    files, pixels = ([tensors[f"test.{n}.{part}"] for n in tests] for part in ("file", "pixels"))
    if any(f.dtype != np.uint8 or f.ndim != 1 for f in files) or any(
        p.dtype != np.uint8 or p.shape != (size, size) for p in pixels
    ):
        raise BundleError(f"{name}: its self-test is not one image of {size}x{size} pixels each. Ask for it again.")
    _check_weights(manifest, weights, name)
    digest = hashlib.sha256(data).hexdigest()
    return Bundle(manifest, weights, [f.tobytes() for f in files], np.stack(pixels), digest, signer)


def weights_sha256(weights: Mapping[str, NDArray[np.float32]]) -> str:
    """By which a model is recognised, whatever file it came in."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(f"{name} {weights[name].shape}\n".encode())
        digest.update(np.ascontiguousarray(weights[name], dtype="<f4").tobytes())
    return digest.hexdigest()


def checked_scorer(bundle: Bundle, name: str, *, device: str = "auto") -> Score:
    """The bundle's network, once its self-test has passed on this machine.

    Args:
        bundle: The bundle.
        name: For messages.
        device: ``auto``, ``cpu`` or ``cuda``.

    Raises:
        BundleError: Preprocessing or network give something else here than at the hospital that made the bundle.
    """
    manifest, score = bundle.manifest, scorer(bundle, device=device)
    _check_pixels(bundle, name)
    found = score(bundle.pixels)
    for scores, test in zip(found, manifest.self_test, strict=True):
        wrong = np.abs(scores - np.array(list(test.scores.values()), dtype=np.float32))
        if not (wrong <= SCORE_TOLERANCE).all():
            raise BundleError(
                f"{name}: self-test: the network's scores of its made-up image ({test.what}) differ by "
                f"{np.nanmax(wrong):.3g} here, at most {SCORE_TOLERANCE:g} is allowed. It is of "
                f"{_versions(manifest)}: try that version of torch, or device = 'cpu'."
            )
    return score


def _check_pixels(bundle: Bundle, name: str) -> None:
    manifest = bundle.manifest
    pixels = pixels_of(bundle.files, manifest.shards)
    off = np.abs(pixels.astype(np.int16) - bundle.pixels).mean(axis=(1, 2))
    for difference, test in zip(off, manifest.self_test, strict=True):
        if difference > PIXEL_TOLERANCE:
            raise BundleError(
                f"{name}: self-test: preprocessing of its made-up image ({test.what}) differs by {difference:.3g} grey "
                f"levels here, at most {PIXEL_TOLERANCE:g} is allowed. It is of {_versions(manifest)}."
            )


def _versions(manifest: Manifest) -> str:
    return (
        ", ".join(f"{name} {version}" for name, version in manifest.provenance.versions.items()) or "unknown versions"
    )


def _check_weights(manifest: Manifest, weights: Mapping[str, NDArray[Any]], name: str) -> None:
    """The names and shapes are the network's, and every number is one."""
    own = _shapes(manifest)
    if own != {key: value.shape for key, value in weights.items()}:
        odd = sorted(
            key for key in own.keys() | weights.keys() if key not in weights or own.get(key) != weights[key].shape
        )
        raise BundleError(
            f"{name}: weight {odd[0][:60]!r} is not one of a {manifest.network.name} of width {manifest.network.width} "
            f"for {len(manifest.labels)} labels. Ask for the file again."
        )
    for key, value in weights.items():
        if value.dtype != np.float32 or not np.isfinite(value).all():
            raise BundleError(f"{name}: weight {key!r} is not all finite float32 numbers. The model is of no use.")


def _shapes(manifest: Manifest) -> dict[str, tuple[int, ...]]:
    """Of the network's parameters: it is built without memory for them."""
    import torch

    from dpdt.training.networks.build import build_model

    with torch.device("meta"):
        model = build_model(manifest.network.settings, size=manifest.shards.size, num_outputs=len(manifest.labels))
    return {key: tuple(value.shape) for key, value in model.state_dict().items()}


def scorer(bundle: Bundle, *, device: str) -> Score:
    """The bundle's network, without the self-test."""
    from dpdt.training.device import choose_device
    from dpdt.training.networks.build import scorer_of

    return scorer_of(network(bundle), choose_device(device))


def network(bundle: Bundle) -> "nn.Module":
    """The bundle's network with its weights, from float32 in 0..1, (k, 1, size, size), to logits (k, labels)."""
    import torch

    from dpdt.training.networks.build import build_model

    with torch.random.fork_rng(devices=[]):
        manifest = bundle.manifest
        model = build_model(manifest.network.settings, size=manifest.shards.size, num_outputs=len(manifest.labels))
    model.load_state_dict({key: torch.from_numpy(value.copy()) for key, value in bundle.weights.items()})
    return model
