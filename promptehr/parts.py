"""Parts of an experiment's synthetic patients: which blocks each has, and one file from all.

A part is a run of whole blocks of 256 consecutive ids, and a block depends on nothing outside it, so
that the merged file is the same for any number of parts. Never samples.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa

from promptehr import artifacts, schemas
from promptehr.errors import ArtifactError, SettingsError
from promptehr.settings import Settings


def share(blocks: range, number: int, count: int) -> range:
    """The blocks of one part of `count`; sizes differ by one at most, and there may be none.

    >>> [share(range(5), number, 3) for number in range(3)]
    [range(0, 1), range(1, 3), range(3, 5)]
    """
    return blocks[number * len(blocks) // count : (number + 1) * len(blocks) // count]


def merged(
    files: Sequence[Path], summaries: Sequence[Path], inputs: Mapping[str, Path], settings: Settings
) -> tuple[pa.Table, dict[str, int]]:
    """All parts one after the other, with their counts added.

    Args:
        files: The parts, in any order.
        summaries: The document that seals each.
        inputs: What they must have been made from, by option.
        settings: Under which.

    Raises:
        ArtifactError: if a part is missing, or was made from other settings or inputs.
    """
    read = {name: artifacts.sha256(path) for name, path in inputs.items()}
    told: Counter[str] = Counter()
    tables = []
    pairs = sorted(zip(files, summaries, strict=True), key=lambda pair: place(pair[0]))
    if [place(part) for part, _ in pairs] != [(number, len(pairs)) for number in range(len(pairs))]:
        raise ArtifactError(f"{pairs[0][0].parent}: not every part is there once; rerun generate_part")
    for part, summary in pairs:
        content = artifacts.open_part(summary, "generate_part", read, settings, part)
        told.update(content["counts"])
        tables.append(artifacts.read_table(part, schemas.SYNTHETIC))
    return pa.concat_tables(tables).combine_chunks(), dict(told)


def place(part: Path) -> tuple[int, int]:
    """(2, 4) of `00002-of-00004.parquet`: the third of four parts.

    Raises:
        SettingsError: for another name.
    """
    found = re.fullmatch(r"(\d{5})-of-(\d{5})\.parquet", part.name)
    if found is None or int(found[1]) >= int(found[2]):
        raise SettingsError(f"--part {part}: expected a name like 00000-of-00004.parquet, which part it is")
    return int(found[1]), int(found[2])
