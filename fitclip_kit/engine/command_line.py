"""What the programs that work on a profile's run are told in the same way."""

import argparse
import io
import os
import sys
from pathlib import Path
from typing import Final

# A kernel's environment, of what a user's settings would change in a notebook's outputs; IPython's
# own come from IPYTHONDIR.
USERS_SETTINGS: Final = {
    "PYTHONSTARTUP": "",
    "MPLBACKEND": "module://matplotlib_inline.backend_inline",
    "MATPLOTLIBRC": os.devnull,
}


def profile_parser(module: str, description: str | None) -> argparse.ArgumentParser:
    """A parser with --profile and --runs-dir; `description` is shown as it stands.

    From here on letters that the terminal's encoding lacks (a title's α) are printed as escapes.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    parser = argparse.ArgumentParser(
        prog=f"python -m {module}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--profile", required=True, help="a file of notebooks/profiles, no suffix")
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"), help="default: runs")
    return parser
