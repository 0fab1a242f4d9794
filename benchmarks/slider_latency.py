"""Time from the slider's release to the updated page, in Chromium, on a finished run.

    python -m benchmarks.slider_latency [--profile mini] [--runs-dir runs] [--moves 30]

The page is served by Voila, as `make slider` does, and its slider is moved by mouse. The clock is
the browser's: it starts with the last movement of the mouse, a moment before the button is let go,
and stops at the first frame painted after the page has changed. Three moments are taken:

    answered    the curves and tables are at the new alpha: stored, or interpolated and marked so
    exact       the shown data set is: stored, or measured
    complete    nothing is left to do: every data set is measured, the clip's probabilities and the
                query's clips belong to the new alpha

Nothing else should run on the machine meanwhile.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from playwright.sync_api import sync_playwright

from benchmarks.browser import PATIENCE, Explorer, find_chromium, launch, serving
from fitclip_kit.store.files import read_manifest

QUERY = "a person is running"
MOMENTS = ("answered", "exact", "complete")
WATCH = """() => {
  const page = document.querySelector(".fk-page");
  document.addEventListener("pointermove", () => window.fkMoved = performance.now(), true);
  new MutationObserver(() => {
    const data = {...document.querySelector(".fk-state").dataset};
    requestAnimationFrame(() => window.fkStates.push({...data, time: performance.now()}));
  }).observe(page, {childList: true, subtree: true, attributes: true, characterData: true});
}"""


def measure(explorer: Explorer, alphas: Sequence[float]) -> pd.DataFrame:
    """Move to each alpha in turn; returns one row a move, milliseconds to each moment."""
    rows = []
    for alpha in alphas:
        explorer.page.evaluate("window.fkStates = []")
        explorer.drag(alpha)
        explorer.settle(vision=alpha)
        explorer.page.wait_for_timeout(500)  # stragglers count, too
        moved = explorer.page.evaluate("window.fkMoved")
        states = pd.DataFrame(explorer.page.evaluate("window.fkStates"))
        here = states[states["vision"].astype(float) == alpha]
        exact = here[here["state"].isin(["stored", "exact"])]
        times = (here["time"].iloc[0], exact["time"].iloc[0], here["time"].iloc[-1])
        rows.append([time - moved for time in times])
    return pd.DataFrame(rows, columns=list(MOMENTS))


def summary(moves: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Median and worst of every kind of move, in milliseconds."""
    parts = {
        name: pd.DataFrame({"median (ms)": found.median(), "worst (ms)": found.max()}).round(0)
        for name, found in moves.items()
    }
    table = pd.concat(parts, names=["alpha", "moment"]).astype(int)
    return table.reset_index()


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.slider_latency")
    parser.add_argument("--profile", default="mini", help="default: mini")
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"), help="default: runs")
    parser.add_argument("--moves", type=int, default=30, help="of each kind; default: 30")
    options = parser.parse_args(arguments)
    chromium = find_chromium()
    if chromium is None:
        parser.error("no chromium is installed; Debian's is `apt-get install chromium`")
    sweep = options.runs_dir / options.profile / "04_alpha_sweep"
    try:
        stored = [round(alpha, 2) for alpha in read_manifest(sweep)["parameters"]["alphas"]]
    except ValueError as error:
        parser.error(f"{error}; run notebook 04_alpha_sweep first")
    between = [place / 100 for place in range(101) if place / 100 not in stored]
    rng = random.Random(0)
    rng.shuffle(between)
    returning = [rng.choice(stored)]
    while len(returning) < options.moves:
        returning.append(rng.choice([alpha for alpha in stored if alpha != returning[-1]]))
    server = ["-m", "fitclip_kit.engine.cli", "slider", "--profile", options.profile]
    server += ["--runs-dir", str(options.runs_dir.resolve())]
    with (
        tempfile.TemporaryDirectory() as folder,
        serving(server, Path(folder)) as served,
        sync_playwright() as playwright,
    ):
        page = launch(playwright, chromium).new_page(viewport={"width": 1280, "height": 1000})
        page.set_default_timeout(PATIENCE * 1000)
        page.goto(served.address)
        explorer = Explorer(page)
        explorer.settle()
        explorer.part("query", "input").fill(QUERY)
        explorer.settle()
        page.evaluate(WATCH)
        measure(explorer, [0.05, 1.0, 0.0])  # what is first is slower
        moves = {
            "fresh": measure(explorer, between[: options.moves]),
            "stored": measure(explorer, returning),
        }
    print(f"{options.moves} moves of each kind, {options.runs_dir / options.profile}")
    print(summary(moves).to_string(index=False))


if __name__ == "__main__":
    main()
