"""What this machine offers dpdt: the first thing to look at on a strange computer or in a container."""

import os
import platform
import tempfile

from dpdt import _core
from dpdt.base.machine import __version__, image_digest

__all__ = ["machine_facts"]


def machine_facts() -> dict[str, str]:
    """Versions, codecs, cores, device and image, by name, in the order to read them in.

    Raises:
        OSError: There is no folder for temporary files.
    """
    import torch

    facts = {"dpdt": __version__, "C++ core": _core.__version__, "python": platform.python_version()}
    facts |= {f"codec {name}": library for name, library in _core.codecs().items()}
    facts["cores"] = str(_core.available_threads())
    facts["torch"] = torch.__version__
    facts["device"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu (torch sees no GPU)"
    facts["image"] = image_digest() or "none: not in one of dpdt's containers"
    facts["temporary files"] = tempfile.gettempdir()
    facts["user"] = str(os.getuid())
    return facts
