"""One process of a training of the tests: `python ranks_worker.py STUDY RESULT [STOP_STEP]`.

Trains the study's first cell, seeded; writes the sums of clipped gradients of the first steps, before noise, to RESULT.
The rank with the highest number asks to stop after STOP_STEP steps, with -2 before the first one; with -1 all of them
train slowly, and never stop.
"""

import os
import sys
import time
from pathlib import Path

import torch

from dpdt.privacy.clipping.gradient_sum import ClippedGradientSum
from dpdt.study import load_study
from dpdt.training.loop import TrainingLoop
from dpdt.training.stop import StopFlag
from dpdt.training.train import train

SUMS_KEPT = 3


def main(study_file: str, result: str, stop_step: int = 0) -> None:
    """Train, and keep the sums."""
    torch.set_num_threads(1)
    sums: list[list[torch.Tensor]] = []
    flag, last = StopFlag(), os.environ["RANK"] == str(int(os.environ["WORLD_SIZE"]) - 1)
    release, take_step = ClippedGradientSum.release, TrainingLoop._take_step

    def kept(self: ClippedGradientSum, *, expected_batch_size: int) -> None:
        if len(sums) < SUMS_KEPT:
            sums.append([total.clone() for total in self.partial_sums()])
        release(self, expected_batch_size=expected_batch_size)

    def counted(self: TrainingLoop, rows: object) -> torch.Tensor:
        total = take_step(self, rows)  # type: ignore[arg-type]
        if last and self.step + 1 == stop_step:
            flag.request()
        if stop_step == -1:
            time.sleep(0.2)
        return total

    ClippedGradientSum.release = kept  # type: ignore[method-assign]
    TrainingLoop._take_step = counted  # type: ignore[method-assign]
    if last and stop_step == -2:
        flag.request()
    study = load_study(study_file)
    summary = train(study, study.cells()[0], seeded_randomness=True, stop=flag)
    names = [Path(f"/proc/self/task/{thread}/comm").read_text().strip() for thread in os.listdir("/proc/self/task")]
    threads = [name for name in names if "gloo" in name or "tcpstore" in name]  # one of them could abort the end
    torch.save({"sums": sums, "status": summary.status, "step": summary.step, "threads": threads}, Path(result))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:]))
