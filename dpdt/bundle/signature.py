"""Detached signatures of files that travel, by OpenSSH: `ssh-keygen -Y sign` and `verify`."""

import subprocess
import tempfile
from pathlib import Path
from typing import Final

from dpdt.bundle.container import read_bytes, write_bytes
from dpdt.errors import BundleError

__all__ = ["sign", "signature_file", "signed_by"]

NAMESPACE: Final = "dpdt"
"""What the signature is for: one that the same key made for something else does not count."""
MOST_BYTES: Final = 1 << 16


def signature_file(path: Path) -> Path:
    """Where the signature of a file lies: beside it."""
    return path.with_name(f"{path.name}.sig")


def sign(path: Path, key: Path) -> Path:
    """Sign a file with an SSH key (its public half is enough if an agent has the other).

    Returns:
        The signature's file.

    Raises:
        BundleError: The key cannot be used, or there is no ssh-keygen.
    """
    signature = _keygen(["-Y", "sign", "-q", "-f", str(key), "-n", NAMESPACE], path.read_bytes())
    write_bytes(signature_file(path), signature)
    return signature_file(path)


def signed_by(data: bytes, path: Path, signers: Path) -> str:
    """Check the signature beside a file.

    Args:
        data: The file's bytes, as they are going to be used.
        path: The file.
        signers: The keys that you trust, in ssh-keygen's format of `allowed_signers`: a name and a public key a line.

    Returns:
        The name that the list gives the key.

    Raises:
        BundleError: There is no signature, or it is not one of these bytes by a key of the list.
    """
    if not signers.is_file():
        raise BundleError(f"{signers}: no such list of trusted keys.")
    with tempfile.NamedTemporaryFile() as copy:
        copy.write(read_bytes(signature_file(path), most=MOST_BYTES))
        copy.flush()
        common = ["-f", str(signers), "-s", copy.name]
        try:
            name = _keygen(["-Y", "find-principals", *common], b"").decode(errors="replace").strip().splitlines()[0]
            _keygen(["-Y", "verify", "-I", name, "-n", NAMESPACE, *common], data)
        except (BundleError, IndexError) as err:
            raise BundleError(
                f"{signature_file(path)}: not a signature of {path.name} by a key in {signers}. Do not use the file; "
                "ask the other hospital by a way that you trust."
            ) from err
    return name


def _keygen(arguments: list[str], data: bytes) -> bytes:
    try:
        return subprocess.run(["ssh-keygen", *arguments], input=data, capture_output=True, check=True).stdout
    except FileNotFoundError as err:
        raise BundleError("signatures need ssh-keygen (OpenSSH 8.2 or newer), which is not installed.") from err
    except subprocess.CalledProcessError as err:
        lines = err.stderr.decode(errors="replace").strip().splitlines()
        raise BundleError(f"ssh-keygen: {lines[-1] if lines else 'failed'}.") from err
