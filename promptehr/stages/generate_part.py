"""A part of an experiment's synthetic patients: the same that `generate` would write in their place.

Patients are generated in blocks of 256 consecutive ids; a part is a run of whole blocks. Its file's
name says which, `00002-of-00004.parquet` the third of four. Only models have parts.
"""

from dataclasses import dataclass
from pathlib import Path

from promptehr import artifacts, parts, schemas
from promptehr.errors import SettingsError
from promptehr.settings import Runtime, Settings
from promptehr.stages import generate


@dataclass(frozen=True)
class Inputs:
    """What `generate` reads."""

    model: Path | None
    train_summary: Path | None
    index: Path
    shards_ledger: Path
    vocabulary: Path
    vocabulary_ledger: Path
    demographics: Path | None
    histories: Path | None


@dataclass(frozen=True)
class Outputs:
    """The part's patients, and the summary that seals them."""

    part: Path
    part_summary: Path


def run(inputs: Inputs, outputs: Outputs, settings: Settings, runtime: Runtime) -> None:
    """Generate the part that the output's name asks for, and publish.

    Raises:
        SettingsError: for a method that has no parts, or a name that tells none.
    """
    if settings.generate.method != "model":
        raise SettingsError(f"generate.method: {settings.generate.method} has no parts; call generate")
    number, count = parts.place(outputs.part)
    read = generate.Inputs(**vars(inputs))
    table, told = generate.sampled(
        read, settings, runtime, of_part=lambda blocks: parts.share(blocks, number, count)
    )
    artifacts.write_table(outputs.part, table, schemas.SYNTHETIC)
    artifacts.write_sealed(
        outputs.part_summary,
        {"counts": told},
        schemas.SUMMARY,
        stage="generate_part",
        settings=settings,
        inputs=generate.read_files(read),
        files=[outputs.part],
    )
