"""What would stop a notebook, read off the parameters of all of them before anything runs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from data_prep.mini_benchmark.data_sets import EVALUATED
from fitclip_kit.engine.run_tasks import DATA, SHARES, SIZES, STUDENTS, SWEEP, ZERO_SHOT
from fitclip_kit.engine.sources import TRAINED_ON, TRAINING_SETS, student_recipe

FIGURES: Final = "07_supplementary_figures"
TABLES: Final = "08_supplementary_tables"
POOL: Final = TRAINED_ON[0]
SELECTION: Final = TRAINING_SETS[2]
KIT_NOTEBOOKS: Final = (DATA, ZERO_SHOT, STUDENTS, SWEEP, SIZES, SHARES, FIGURES, TABLES)
_FILLED: Final = ("evaluated", "draws", "alphas", "sizes", "pseudo_shares", "tower_alphas")
_SHARES: Final = ("alphas", "tower_alphas", "pseudo_shares", "fused_alpha")  # lie in [0, 1]
# What a notebook reads beside the sets that it measures on.
_READ: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        STUDENTS: TRAINING_SETS,
        SIZES: (POOL, SELECTION),
        SHARES: TRAINING_SETS,
        FIGURES: (SELECTION,),
    }
)


@dataclass(frozen=True)
class Run:
    """A run that is to start.

    Attributes:
        parameters: notebook stem -> its parameters.
        clips: name -> clips, of every data set; as many as are wanted where they are not counted.
        references: further models that notebook 02 measures.
        released: whether there is a released student.
    """

    parameters: Mapping[str, Mapping[str, Any]]
    clips: Mapping[str, int]
    references: int = 0
    released: bool = True

    @property
    def fitted(self) -> list[int]:
        """The draws that notebook 03 trains."""
        return [draw for draw in self.parameters[STUDENTS]["draws"] if draw > 0]


def problems(stem: str, run: Run) -> list[str]:
    """What would stop a notebook, a sentence each, with what to do about it."""
    values = run.parameters[stem]
    own = _RULES[stem](run, values) if stem in _RULES else ()
    return [*_lists(values), *_data_sets(stem, run), *own]


def notes(parameters: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What notebooks will do with less than is asked for, a sentence each with its name first."""
    found = []
    draws = parameters[SWEEP]["draws"]
    for name in ("merged_draws", "single_draws"):
        if (wanted := parameters[FIGURES][name]) > len(draws):
            found.append(f"{FIGURES}: {name} is {wanted}, and all students are {len(draws)}.")
    alpha = parameters[TABLES]["fused_alpha"]
    studies = {SIZES: parameters[SIZES]["alphas"], SHARES: [parameters[SHARES]["fused_alpha"]]}
    for stem, alphas in studies.items():
        if _without([alpha], alphas):
            found.append(f"{TABLES}: no claim on {stem}, which is not measured at {alpha:g}.")
    return found


def _lists(values: Mapping[str, Any]) -> Iterator[str]:
    for name in _FILLED:
        if name in values and not values[name]:
            yield f"{name} is empty; give at least one"
    for name in ("evaluated", "draws"):
        if len(set(values.get(name, ()))) < len(values.get(name, ())):
            yield f"{name} is {values[name]}; give each once"
    for name in _SHARES:
        value = values.get(name, [])
        if not all(0 <= share <= 1 for share in (value if isinstance(value, list) else [value])):
            yield f"{name} is {value}; shares lie between 0 and 1"


def _data_sets(stem: str, run: Run) -> Iterator[str]:
    values, there = run.parameters[stem], run.clips
    measurable = [name for name in there if name not in TRAINING_SETS]
    for parameter in ("evaluated", "tower_sets"):
        if absent := _without(values.get(parameter, ()), measurable):
            yield (
                f"{parameter} names {absent}, and the data sets to measure on are "
                f"{', '.join(measurable) or 'none'}; leave it out (under `common` for all "
                "notebooks), or add it to the sources file"
            )
    wanted = measurable if stem == SIZES else values.get("evaluated", ())
    measured = [name for name in wanted if name in measurable]
    if measured and stem != ZERO_SHOT and not set(EVALUATED).intersection(measured):
        yield (
            f"none of {', '.join(measured)} is one of the paper's data sets, which its figures and "
            f"tests are of; measure one of {', '.join(EVALUATED)} too"
        )
    reads = () if stem == STUDENTS and not run.fitted else _READ.get(stem, ())
    if absent := _without(reads, there):
        yield (
            f"it reads {absent}, and the sources file has no such data sets; add them there, or "
            "leave the notebook out (--only chooses notebooks)"
        )


def _students(run: Run, values: Mapping[str, Any]) -> Iterator[str]:
    if 0 in values["draws"] and not run.released:
        yield (
            "draw 0 stands for a released student, and the sources name none; add it under "
            "`models`, or take draws from 1 on"
        )
    clips, _ = student_recipe(values)
    if run.fitted and POOL in run.clips and not 1 <= clips <= run.clips[POOL]:
        yield f"labelled_clips is {clips}, and notebook 01 has {run.clips[POOL]} to draw from"


def _sweep(run: Run, values: Mapping[str, Any]) -> Iterator[str]:
    alphas, fused = values["alphas"], values["fused_alpha"]
    if absent := _without(values["draws"], run.parameters[STUDENTS]["draws"]):
        yield f"it fuses draws {absent}, which notebook 03 does not make"
    if absent := _without((0.0, fused, 1.0), alphas):
        yield f"alphas lack {absent}: teacher, fused_alpha and student are compared; add them"
    if fused in (0, 1):
        yield f"fused_alpha is {fused:g}, an end of the sweep; give one between 0 and 1"
    zero_shot = run.parameters[ZERO_SHOT]["evaluated"]
    if run.references and (absent := _without(values["evaluated"], zero_shot)):
        yield f"the reference models are not measured on {absent} in notebook 02; add it there"


def _sizes(run: Run, values: Mapping[str, Any]) -> Iterator[str]:
    last = max(run.parameters[STUDENTS]["draws"], default=0)
    if last not in run.fitted:
        yield (
            f"it goes by the recipe of draw {last}, which notebook 03 does not train; train one "
            "there, or leave this notebook out (--only chooses notebooks)"
        )
    if 0 in values["alphas"]:
        yield "alphas has 0, which is the teacher and measured anyhow; leave it out"
    if not values["independent_draws"] and not values["nested_draws"]:
        yield "there is no draw; give independent_draws or nested_draws at least one"


def _shares(run: Run, values: Mapping[str, Any]) -> Iterator[str]:
    draws = [draw for draw in values["draws"] if draw > 0]
    if absent := _without(draws, run.fitted):
        yield f"it goes by the recipe of draw {absent}, which notebook 03 does not train"
    if not draws:
        yield (
            "draws has only the released student, and it trains others; give draws from 1 on, or "
            "leave this notebook out (--only chooses notebooks)"
        )
    if absent := _without((0.0, values["tested_share"]), values["pseudo_shares"]):
        yield f"pseudo_shares lack {absent}: tested_share is compared with 0; add them"
    made = run.parameters[STUDENTS]
    if values["teacher_temperature"] != made["teacher_temperature"] and not _without(
        [1 - made["labelled_share"]], values["pseudo_shares"]
    ):
        yield (
            "its teacher_temperature is not notebook 03's, whose students are among its own; give "
            "both the same (under `common`)"
        )
    if not values["tested_share"]:
        yield "tested_share is 0, with which it is compared; give another"
    if not values["fused_alpha"]:
        yield "fused_alpha is 0, which is the teacher; give one above"


def _figures(run: Run, values: Mapping[str, Any]) -> Iterator[str]:
    fused = run.parameters[SWEEP]["fused_alpha"]
    if fused > 0.5:
        yield (
            f"notebook 04's fused_alpha is {fused:g}, and its merge `deeper` goes up to twice as "
            "much, beyond the student; take at most 0.5, or leave this notebook out (--only)"
        )
    for name in ("merged_draws", "single_draws"):
        if values[name] < 1:
            yield f"{name} is {values[name]}; give at least 1"
    if len({round(alpha, 9) for alpha in values["tower_alphas"]}) < 2:
        yield "tower_alphas has one alpha; equal and unequal ones are compared, so give two or more"
    n, batch = values["fisher_clips"], values["fisher_batch"]
    clips = run.clips.get(SELECTION, n)
    if not 2 <= batch <= n <= clips or n % batch:
        yield (
            f"fisher_clips is {n} and fisher_batch {batch}, with {clips} clips of {SELECTION}: "
            "give a multiple of the batch, which is at least 2, and no more than there are"
        )


def _tables(run: Run, values: Mapping[str, Any]) -> Iterator[str]:
    if absent := _without([values["fused_alpha"]], run.parameters[SWEEP]["alphas"]):
        yield f"fused_alpha is {absent}, which is not among notebook 04's alphas"


def _data(run: Run, values: Mapping[str, Any]) -> Iterator[str]:
    files = {
        stem: own["sources_file"]
        for stem, own in run.parameters.items()
        if own.get("sources_file") != values["sources_file"]
    }
    if files:
        yield f"sources_file is another in {', '.join(files)}; set it once, under `common`"
    if not set(run.clips).difference(TRAINING_SETS):
        yield "the sources file has no data set to measure on; add one"


def _without(wanted: Collection[Any], there: Collection[Any]) -> str:
    """What is not there, in words; numbers are compared to 9 decimals, as results keep them."""

    def kept(one: Any) -> Any:
        return one if isinstance(one, str) else round(float(one), 9)

    known = {kept(one) for one in there}
    return ", ".join(
        one if isinstance(one, str) else f"{one:g}" for one in wanted if kept(one) not in known
    )


_RULES: Final[Mapping[str, Callable[[Run, Mapping[str, Any]], Iterator[str]]]] = MappingProxyType(
    {
        DATA: _data,
        STUDENTS: _students,
        SWEEP: _sweep,
        SIZES: _sizes,
        SHARES: _shares,
        FIGURES: _figures,
        TABLES: _tables,
    }
)
