"""Makes jobs train with seeded randomness, and hold at the end of an epoch, so that a test can disturb them there.

A file `hold` in the study's folder holds every training at the end of its second epoch, until the file is gone or the
training is told to stop. A file `fail` names a run that fails there.
"""

import threading
import time
from typing import Any

import dpdt.training.stage
from dpdt.training.stop import StopFlag

told = threading.Event()
_on_signal = StopFlag._on_signal


def _noticed(flag: StopFlag, number: int, frame: Any) -> None:
    told.set()
    _on_signal(flag, number, frame)


def run(study: Any, run_id: str, **_: object) -> object:
    """As the stage trains one of the study's cells, but seeded and held."""
    from dpdt.training.train import train

    cell = next(cell for cell in study.cells() if study.run_id(cell) == run_id)
    hold, fail = study.folder / "hold", study.folder / "fail"

    def on_epoch_end(paths: Any) -> None:
        if fail.exists() and fail.read_text() == paths.run_id:
            raise RuntimeError("told to fail")
        (study.folder / "held" / paths.run_id).touch()
        while hold.exists() and not told.is_set():
            time.sleep(0.05)

    return train(study, cell, seeded_randomness=True, on_epoch_end=on_epoch_end)


StopFlag._on_signal = _noticed  # type: ignore[method-assign]
dpdt.training.stage.run = run
