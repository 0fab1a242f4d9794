"""What `test_train` has torchrun start: `fitclip train` on notebooks of the test's own.

    torchrun ... tests/train_in_ranks.py NOTEBOOKS RUNS_DIR [lost]

With `lost`, rank 1 fails in the middle of the training.
"""

import sys
from pathlib import Path
from typing import Any
from unittest import mock

from fitclip_core import distillation
from fitclip_kit.engine import cli, distributed, run, students


def lose_rank_1() -> None:
    validate = distillation._validation_loss
    calls = []

    def failing(*arguments: Any) -> float:
        calls.append(1)
        if distributed.rank() == 1 and len(calls) == 2:  # after the first step
            raise OSError("the frames are gone")
        return validate(*arguments)

    mock.patch.object(distillation, "_validation_loss", failing).start()


if __name__ == "__main__":
    notebooks, runs_dir, *lost = sys.argv[1:]
    if lost:
        lose_rank_1()
    assert students.fit_student is distillation.fit_student
    run.NOTEBOOKS = Path(notebooks)
    sys.exit(cli.main(["train", "--profile", "tiny", "--runs-dir", runs_dir]))
