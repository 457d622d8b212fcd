"""Whether the report and MLflow were made from the files that are there now.

Their results do not record it themselves, so a stamp is kept: a hash over everything that they show. It goes by the
files' bytes, not by their times or place, so that a study that was copied or moved is not done again.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dpdt.base.files import fingerprint, read_json, sha256_once, write_json
from dpdt.base.machine import __version__
from dpdt.study import Study

__all__ = ["is_current", "stamped"]


def is_current(study: Study, stage: str) -> bool:
    """Whether `report` or `track` would come out the same if it was run again."""
    stamp = study.paths.stamp(stage)
    return _result(study, stage).exists() and stamp.exists() and read_json(stamp) == _inputs(study, stage)


@contextmanager
def stamped(study: Study, stage: str) -> Iterator[None]:
    """Note what `report` or `track` is made from, once the block ends without an error."""
    inputs = _inputs(study, stage)  # from before: whatever changes in the meantime makes the stamp invalid
    yield
    write_json(study.paths.stamp(stage), inputs)


def _result(study: Study, stage: str) -> Path:
    """A file that is there if the stage was run; the study itself where the result is on a server."""
    if stage == "report":
        return study.paths.report / "index.html"
    return study.folder if study.tracking.uri else study.paths.mlflow_database


def _inputs(study: Study, stage: str) -> str:
    """Fingerprint of everything that the stage shows."""
    own = [study.run_id(cell) for cell in study.tested_models()]
    run_ids = [*dict.fromkeys(view.pretrain_run_id for view in study.views), *own, *study.carried]
    runs = [study.paths.run(run_id) for run_id in run_ids if run_id]
    files = [file for run in runs for file in (run.state, run.privacy, run.metrics, run.audit)]
    settings: Any = [study.name, study.evaluate.model_dump(mode="json")]
    if study.report.example_images:
        settings.append("example_images, maps")
    if stage == "track":
        files.append(_result(study, "report"))
        settings.append(study.tracking.model_dump(mode="json"))
    hashes = {file.relative_to(study.folder).as_posix(): sha256_once(file) for file in files if file.exists()}
    return fingerprint({"version": __version__, "settings": settings, "files": hashes})
