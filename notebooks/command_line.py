"""What the programs that work on a profile's run are told in the same way."""

import argparse
from pathlib import Path


def profile_parser(module: str, description: str | None) -> argparse.ArgumentParser:
    """A parser with --profile and --runs-dir; `description` is shown as it stands."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {module}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--profile", required=True, help="a file of notebooks/profiles, no suffix")
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"), help="default: runs")
    return parser
