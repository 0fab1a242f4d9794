"""What would stop a notebook, read off the parameters of all of them before anything runs."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from data_prep.mini_benchmark.data_sets import EVALUATED
from fitclip_kit.engine.distributed import pick_device
from fitclip_kit.engine.settings import in_words
from fitclip_kit.engine.sources import POOL, SELECTION
from fitclip_kit.engine.work import (
    DATA,
    FIGURES,
    SHARES,
    SIZES,
    STUDENTS,
    SWEEP,
    TABLES,
    ZERO_SHOT,
    Run,
    Work,
    of_run,
)
from fitclip_kit.weights.models import OPEN_CLIP_PREFIX

_FILLED: Final = ("evaluated", "draws", "alphas", "sizes", "pseudo_shares", "tower_alphas")
_SHARES: Final = ("alphas", "tower_alphas", "pseudo_shares", "fused_alpha")  # lie in [0, 1]
_OUT: Final = "leave this notebook out (--only chooses notebooks)"
_ADD: Final = f"add data sets to the sources file, draws to notebook 03, or {_OUT}"
_Rule = tuple[str, object, str]  # notebook, whether it would stop, why and what to do about it


def problems(run: Run, *, files: bool = False) -> list[str]:
    """What would stop a notebook, a sentence each that starts with its name; no data are opened.

    Where the sources file cannot be read, or no recipe follows, that alone is said.

    files: whether the models' files have to be there.
    """
    try:
        run.sources  # noqa: B018
    except ValueError as error:
        return [str(error)]
    try:
        run.recipe  # noqa: B018
    except ValueError as error:
        return [f"{STUDENTS} would stop: {error}"]
    rules = [*(_files(run) if files else ()), *_rules(run)]
    works: list[Work] = []
    for stem, values in run.parameters.items():
        rules += [*_lists(stem, values), *_data_sets(run, stem, values)]
        try:
            pick_device(str(values.get("device", "cpu")))
            works += of_run(run, [stem])
        except ValueError as error:
            told = "; ".join(in_words(error)) if isinstance(error, ValidationError) else str(error)
            rules.append((stem, all(rule[0] != stem or not rule[1] for rule in rules), told))
    stopped = {stem for stem, stops, _ in rules if stops}
    made = {work.name for work in works}
    for stem in (stem for stem in run.parameters if stem not in stopped):
        needs = (name for work in works if work.notebook == stem for name in work.after)
        if absent := ", ".join(name for name in dict.fromkeys(needs) if name not in made):
            rules.append((stem, True, f"it needs {absent}, of which nothing is known; {_ADD}"))
    rules.sort(key=lambda rule: list(run.parameters).index(rule[0]))
    return [f"{stem} would stop: {why}" for stem, stops, why in rules if stops]


def notes(parameters: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What notebooks will do with less than is asked for, a sentence each with its name first."""
    found, draws = [], parameters[SWEEP]["draws"]
    for name in ("merged_draws", "single_draws"):
        if (wanted := parameters[FIGURES][name]) > len(draws):
            found.append(f"{FIGURES}: {name} is {wanted}, and all students are {len(draws)}.")
    alpha = parameters[TABLES]["fused_alpha"]
    for stem, name in ((SIZES, "alphas"), (SHARES, "fused_alpha")):
        measured = parameters[stem][name]
        if _without([alpha], measured if isinstance(measured, list) else [measured]):
            found.append(f"{TABLES}: no claim on {stem}, which is not measured at {alpha:g}.")
    return found


def _files(run: Run) -> Iterator[_Rule]:
    """The models' files that are not there, by the first notebook that reads them."""
    models: dict[str, tuple[str, Any]] = {"teacher": (DATA, run.sources.models.teacher)}
    if 0 in run.parameters[STUDENTS]["draws"]:
        models["student"] = (STUDENTS, run.sources.models.student)
    models |= {name: (ZERO_SHOT, entry) for name, entry in run.sources.references.items()}
    for model, (stem, entry) in models.items():
        for key in ("file", "vocabulary"):
            path = getattr(entry, key, OPEN_CLIP_PREFIX)
            absent = not path.startswith(OPEN_CLIP_PREFIX) and not Path(path).exists()
            yield stem, absent, f"there is no {path}, the sources' {key} of {model}"


def _lists(stem: str, values: Mapping[str, Any]) -> Iterator[_Rule]:
    for name in _FILLED:
        yield stem, not values.get(name, True), f"{name} is empty; give at least one"
    for name in ("evaluated", "draws"):
        given = values.get(name, ())
        yield stem, len(set(given)) < len(given), f"{name} is {given}; give each once"
    for name in _SHARES:
        given = values.get(name, [])
        within = all(0 <= share <= 1 for share in (given if isinstance(given, list) else [given]))
        yield stem, not within, f"{name} is {given}; shares lie between 0 and 1"


def _data_sets(run: Run, stem: str, values: Mapping[str, Any]) -> Iterator[_Rule]:
    there, evaluated = run.sources.evaluated, values.get("evaluated", ())
    for name in ("evaluated", "tower_sets"):
        absent = _without(values.get(name, ()), there)
        yield (
            stem,
            absent,
            f"{name} names {absent}, and the data sets to measure on are "
            f"{', '.join(there) or 'none'}; leave it out (under `common` for all notebooks), or "
            "add it to the sources file",
        )
    known = [name for name in evaluated if name in there]
    yield (
        stem,
        known and stem != ZERO_SHOT and not set(EVALUATED).intersection(known),
        f"none of {', '.join(known)} is one of the paper's data sets, which its figures and tests "
        f"are of; measure one of {', '.join(EVALUATED)} too",
    )


def _rules(run: Run) -> Iterator[_Rule]:
    """What the kinds of the values and the list of work do not tell."""
    values, (clips, _) = run.parameters, run.recipe
    file, sources = values[DATA]["sources_file"], run.sources
    other = ", ".join(stem for stem in values if values[stem].get("sources_file", file) != file)
    yield DATA, other, f"sources_file is another in {other}; set it once, under `common`"
    yield DATA, not sources.evaluated, "the sources file has no data set to measure on; add one"

    draws = values[STUDENTS]["draws"]
    released = "draw 0 stands for a released student, and the sources name none; add it under "
    released += "`models`, or take draws from 1 on"
    yield STUDENTS, 0 in draws and sources.models.student is None, released
    pool = run.sizes.get(POOL) or math.inf
    beyond = max(draws, default=0) > 0 and not 1 <= clips <= pool
    yield STUDENTS, beyond, f"labelled_clips is {clips}, and notebook 01 has {pool} to draw from"

    alphas, fused = values[SWEEP]["alphas"], values[SWEEP]["fused_alpha"]
    absent = _without((0.0, fused, 1.0), alphas)
    yield (
        SWEEP,
        absent,
        f"alphas lack {absent}: teacher, fused_alpha and student are compared; add them",
    )
    end = f"fused_alpha is {fused:g}, an end of the sweep; give one between 0 and 1"
    yield SWEEP, fused in (0, 1), end
    absent = _without(values[SWEEP]["evaluated"], values[ZERO_SHOT]["evaluated"])
    unmeasured = f"the reference models are not measured on {absent} in notebook 02; add it there"
    yield SWEEP, sources.references and absent, unmeasured

    sizes = values[SIZES]
    recipe = f"it goes by the recipe of a draw that notebook 03 trains; {_OUT}"
    yield SIZES, max(draws, default=0) < 1, recipe
    teacher = "alphas has 0, which is the teacher and measured anyhow; leave it out"
    yield SIZES, 0 in sizes["alphas"], teacher
    none = "there is no draw; give independent_draws or nested_draws at least one"
    yield SIZES, not sizes["independent_draws"] and not sizes["nested_draws"], none

    shares = values[SHARES]
    none = f"draws has only the released student, and it trains others; give more, or {_OUT}"
    yield SHARES, max(shares["draws"], default=1) < 1, none
    absent = _without((0.0, shares["tested_share"]), shares["pseudo_shares"])
    lack = f"pseudo_shares lack {absent}: tested_share is compared with 0; add them"
    yield SHARES, absent, lack
    for name, what in (
        ("tested_share", "with which it is compared"),
        ("fused_alpha", "the teacher"),
    ):
        yield SHARES, not shares[name], f"{name} is 0, {what}; give one above"

    figures = values[FIGURES]
    deep = f"notebook 04's fused_alpha is {fused:g}, and its merge `deeper` goes up to twice as "
    deep += f"much, beyond the student; take at most 0.5, or {_OUT}"
    yield FIGURES, fused > 0.5, deep
    for name in ("merged_draws", "single_draws"):
        yield FIGURES, figures[name] < 1, f"{name} is {figures[name]}; give at least 1"
    few = "tower_alphas has one alpha; equal and unequal ones are compared, so give two or more"
    yield FIGURES, len({round(alpha, 9) for alpha in figures["tower_alphas"]}) == 1, few
    n, batch, there = figures["fisher_clips"], figures["fisher_batch"], run.sizes.get(SELECTION)
    yield (
        FIGURES,
        not 2 <= batch <= n <= (there or n) or n % batch,
        f"fisher_clips is {n} and fisher_batch {batch}, with {there or 'all'} clips of "
        f"{SELECTION}: give a multiple of the batch, which is at least 2, and no more than there "
        "are",
    )
    fused = values[TABLES]["fused_alpha"]
    absent = _without([fused], alphas)
    yield TABLES, absent, f"fused_alpha is {absent}, which is not among notebook 04's alphas"


def _without(wanted: Collection[Any], there: Collection[Any]) -> str:
    """What is not there, in words; numbers are compared to 9 decimals, as results keep them."""

    def kept(one: Any) -> Any:
        return one if isinstance(one, str) else round(float(one), 9)

    known = {kept(one) for one in there}
    return ", ".join(
        one if isinstance(one, str) else f"{one:g}" for one in wanted if kept(one) not in known
    )
