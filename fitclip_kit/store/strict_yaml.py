"""YAML that users write: plain values alone, and no key twice."""

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

_MERGE = "tag:yaml.org,2002:merge"  # of the key <<, which may stand twice


def read_yaml(path: Path) -> Any:
    """The content of a YAML file, None for an empty one.

    Raises: ValueError when it cannot be read, is not YAML of plain values, or repeats a key, which
    YAML's own loader would take for a correction of the first.
    """
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeyLoader)
    except Exception as error:  # of a value that is none of its tag, PyYAML raises anything
        why = str(error) or type(error).__name__
        raise ValueError(f"{path} is not readable YAML: {why}") from error


class _UniqueKeyLoader(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [key for key, _ in node.value if key.tag != _MERGE]
        names = [self.construct_object(key, deep=True) for key in keys]
        for name in names:
            if names.count(name) > 1:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {name!r} is given twice", node.start_mark
                )
        return super().construct_mapping(node, deep)
