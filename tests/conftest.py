"""What all tests share."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch starts its threads

# The same examples on every machine, and no failure because a machine is busy.
settings.register_profile("kit", deadline=None, derandomize=True)
settings.load_profile("kit")


@pytest.fixture(scope="session")
def realdata() -> Path:
    """The folder of real data sets' files and clips that lies beside some checkouts."""
    folder = Path(__file__).parents[2] / "shared" / "realdata"
    if not folder.is_dir():
        pytest.skip("no ../shared/realdata beside this checkout: real files are not tested")
    return folder
