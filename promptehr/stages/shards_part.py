"""One shard of every split: the same that `shards` would write in its place.

A patient's shard follows from its id alone, so that a part needs nothing of the others. The name of its
summary says which it is, `00002.json` the third; its shards lie beside it, `<split>/00002.parquet`.
"""

from dataclasses import dataclass
from pathlib import Path

from promptehr import artifacts, locks, schemas
from promptehr.settings import Settings
from promptehr.stages import shards


@dataclass(frozen=True)
class Inputs:
    """What `shards` reads."""

    train: Path
    valid: Path
    test: Path
    records_ledger: Path
    vocabulary: Path
    vocabulary_ledger: Path


@dataclass(frozen=True)
class Outputs:
    """The summary that seals the part's shards."""

    part_summary: Path


def run(inputs: Inputs, outputs: Outputs, settings: Settings) -> None:
    """Write the shards that the output's name asks for, and publish.

    Raises:
        SettingsError: for a name that tells no shard.
    """
    number = shards.number_of(outputs.part_summary, settings.shards)
    read = shards.Inputs(**vars(inputs))
    folder = outputs.part_summary.parent
    # A job of a stopped run that had another count may still write the same shards.
    with locks.part_of(folder / "ledger.json"):
        part = shards.write(read, folder, settings.shards, range(number, number + 1))
        artifacts.write_sealed(
            outputs.part_summary,
            vars(part),
            schemas.SUMMARY,
            stage="shards_part",
            settings=settings,
            inputs=shards.read_files(read),
            files=[folder / entry["path"] for entries in part.splits.values() for entry in entries],
        )
