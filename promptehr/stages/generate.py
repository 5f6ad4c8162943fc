"""Synthetic patients from a trained model, a baseline, or the planted copier.

Demographics are drawn from the vocabulary's joint table, or read from a file; or given histories
are continued. Writes records whose ids start at 2^40, so that no real patient has one.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from promptehr import artifacts, baselines, parts, schemas, tokens
from promptehr.errors import ArtifactError, InputError, SettingsError
from promptehr.settings import Generate, Runtime, Settings
from promptehr.tokens import BOS, END, ETHNICITIES, GENDERS, Cohort, Ints, Vocabulary

logger = logging.getLogger(__name__)

FIRST_SYNTHETIC_ID = 2**40
OLDEST = 120.0


@dataclass(frozen=True)
class Inputs:
    """The model if there is one, the training data for the others, what to condition on."""

    model: Path | None
    train_summary: Path | None
    index: Path
    shards_ledger: Path
    vocabulary: Path
    vocabulary_ledger: Path
    demographics: Path | None
    histories: Path | None
    parts: tuple[Path, ...] = ()
    part_summaries: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Outputs:
    """The patients, and the summary that seals them."""

    synthetic: Path
    summary: Path


@dataclass(frozen=True)
class Generated:
    """Records as tokens, with what is to be told of their making."""

    cohort: Cohort
    facts: Mapping[str, int]


def run(inputs: Inputs, outputs: Outputs, settings: Settings, runtime: Runtime) -> None:
    """Generate by the method of the settings, or merge what parts generated, and publish."""
    table, told = (
        parts.merged(inputs.parts, inputs.part_summaries, read_files(inputs), settings)
        if inputs.parts
        else sampled(inputs, settings, runtime, of_part=lambda blocks: blocks)
    )
    artifacts.write_table(outputs.synthetic, table, schemas.SYNTHETIC)
    artifacts.write_sealed(
        outputs.summary,
        {"method": settings.generate.method, **told},
        schemas.SUMMARY,
        stage="generate",
        settings=settings,
        inputs=read_files(inputs),
        files=[outputs.synthetic],
    )
    logger.info("%s patients by %s", table.num_rows, settings.generate.method)


def read_files(inputs: Inputs) -> dict[str, Path]:
    """What the patients depend on, by option; parts are on the way and no matter of their own."""
    return {name: path for name, path in vars(inputs).items() if isinstance(path, Path)}


def sampled(
    inputs: Inputs, settings: Settings, runtime: Runtime, *, of_part: Callable[[range], range]
) -> tuple[pa.Table, dict[str, int]]:
    """Records and what the summary tells of them.

    Args:
        inputs: What to generate from.
        settings: Method and its numbers.
        runtime: Device and threads of a model.
        of_part: All numbers of blocks to those that a part of the model's work has.
    """
    artifacts.open_sealed(inputs.vocabulary_ledger, schemas.LEDGER, "vocabulary", inputs.vocabulary)
    artifacts.open_sealed(inputs.shards_ledger, schemas.LEDGER, "shards", inputs.index)
    vocabulary = Vocabulary.from_document(artifacts.read_json(inputs.vocabulary, schemas.VOCABULARY))
    index = artifacts.read_json(inputs.index, schemas.INDEX)
    train_rows = sum(shard["rows"] for shard in index["splits"]["train"])
    people = conditioned_on(inputs, vocabulary, settings.generate, default_patients=train_rows)
    if settings.generate.method == "model":
        generated = from_model(inputs, people, vocabulary, settings.generate, runtime, of_part)
    else:
        generate = from_records if settings.generate.method == "copy" else from_baseline
        generated = generate(inputs, people, vocabulary, settings.generate)
    return to_records(generated.cohort, vocabulary), {**counts(generated.cohort), **generated.facts}


# --- methods -----------------------------------------------------------------------------------


def from_model(
    inputs: Inputs,
    people: Cohort,
    vocabulary: Vocabulary,
    settings: Generate,
    runtime: Runtime,
    of_part: Callable[[range], range],
) -> Generated:
    """Records that the trained model writes for the people of some blocks, or of all."""
    # Baselines need none of this, and importing it takes seconds.
    from promptehr import model as promptbart
    from promptehr.model import device, sampling
    from promptehr.model.batches import TokenStore
    from promptehr.progress import steps

    if inputs.model is None or inputs.train_summary is None:
        raise SettingsError("generate.method: model needs --model and --train-summary; or choose a baseline")
    sealed = artifacts.files_of(inputs.model)
    artifacts.open_sealed(inputs.train_summary, schemas.SUMMARY, "train", *sealed)
    where = device.decide(runtime)
    trained = promptbart.load(inputs.model, where)
    if trained.config.vocab_size != vocabulary.size:
        raise ArtifactError(
            f"{inputs.model}: trained with another vocabulary than {inputs.vocabulary}; rerun train"
        )
    store = TokenStore.from_cohort(people, where, vocabulary_size=vocabulary.size)
    continues = inputs.histories is not None
    written, closed = [], 0
    numbers = of_part(range(-(-len(people) // sampling.BLOCK)))
    blocks = sampling.blocks(trained, store, settings, numbers, continues=continues)
    what = "blocks of 256 patients"
    for block in steps(blocks, total=len(numbers), what=what, every_s=runtime.log_every_s):
        written += block.tokens
        closed += block.closed
    people = _slice(people, numbers.start * sampling.BLOCK, numbers.stop * sampling.BLOCK)
    flat, offsets = sampling.joined(written, _split(people) if continues else None)
    return Generated(_with_tokens(people, flat, offsets), {"closed_at_limit": closed})


def from_baseline(inputs: Inputs, people: Cohort, vocabulary: Vocabulary, settings: Generate) -> Generated:
    """Records drawn from the unigram by sex and age band, or from the bigram."""
    name: baselines.Name = "bigram" if settings.method == "bigram" else "demographic_unigram"
    train, valid = (
        Cohort.from_shards(artifacts.read_split(inputs.index, split)) for split in ("train", "valid")
    )
    fitted = baselines.fit(name, train, valid, vocabulary)
    longest = artifacts.read_json(inputs.index, schemas.INDEX)["longest"]
    drawn = baselines.sample(fitted, people, most_tokens=longest, rng=_rng(settings, "records"))
    return Generated(_with_tokens(people, drawn.tokens, drawn.offsets), {"closed_at_limit": drawn.closed})


def from_records(inputs: Inputs, people: Cohort, vocabulary: Vocabulary, settings: Generate) -> Generated:
    """Real records under new ids, a share of them from the training split: a planted leak.

    Raises:
        SettingsError: if there are fewer records than asked for.
    """
    del vocabulary
    splits = {
        s: Cohort.from_shards(artifacts.read_split(inputs.index, s)) for s in ("train", "valid", "test")
    }
    members = round(len(people) * settings.copy_.share)
    wanted = {"training": members, "held-out": len(people) - members}
    there = {"training": [splits["train"]], "held-out": [splits["valid"], splits["test"]]}
    rng = _rng(settings, "records")
    chosen = []
    for name, count in wanted.items():
        available = sum(len(cohort) for cohort in there[name])
        if count > available:
            raise SettingsError(
                f"generate.patients: {len(people)} patients, {settings.copy_.share:.0%} of them copied, need"
                f" {count} {name} records; there are {available}; ask for fewer"
            )
        picked = set(rng.choice(available, size=count, replace=False).tolist())
        rows = [(cohort, row) for cohort in there[name] for row in range(len(cohort))]
        chosen += [pair for place, pair in enumerate(rows) if place in picked]
    order = rng.permutation(len(chosen))
    return Generated(_renumbered([chosen[place] for place in order]), {"copied_from_train": members})


# --- people ------------------------------------------------------------------------------------


def conditioned_on(
    inputs: Inputs, vocabulary: Vocabulary, settings: Generate, *, default_patients: int
) -> Cohort:
    """Demographics, with an empty record, or with the given history."""
    if inputs.histories is not None:
        return read_histories(inputs.histories, vocabulary, settings)
    if inputs.demographics is not None:
        gender, ethnicity, age = read_demographics(inputs.demographics, settings)
    else:
        gender, ethnicity, age = draw_demographics(
            vocabulary, settings.patients or default_patients, _rng(settings, "people")
        )
    count = len(age)
    return Cohort(
        subject_id=FIRST_SYNTHETIC_ID + np.arange(count),
        age_z=vocabulary.age_z(age),
        gender_id=gender,
        ethnicity_id=ethnicity,
        tokens=np.tile([BOS, END], count).astype(np.int64),
        offsets=2 * np.arange(count + 1),
    )


def draw_demographics(
    vocabulary: Vocabulary, count: int, rng: np.random.Generator
) -> tuple[Ints, Ints, npt.NDArray[np.float64]]:
    """Sex, ethnicity and age from the joint table of the training split, age uniform in its band.

    Drawing rows of real patients would hand out their ages to the day.
    """
    cells = vocabulary.demographics
    share = np.array([cell["patients"] for cell in cells], dtype=np.float64)
    cell = rng.choice(len(cells), size=count, p=share / share.sum())
    age_from, age_to = (
        np.array([c[name] for c in cells], dtype=np.float64) for name in ("age_from", "age_to")
    )
    age = age_from[cell] + rng.random(count) * (age_to - age_from)[cell]
    gender = np.array([GENDERS.index(c["gender"]) for c in cells])[cell]
    ethnicity = np.array([ETHNICITIES.index(c["ethnicity"]) for c in cells])[cell]
    return gender, ethnicity, age


def read_demographics(path: Path, settings: Generate) -> tuple[Ints, Ints, npt.NDArray[np.float64]]:
    """Sex, ethnicity and age of each row of a Parquet file.

    Raises:
        InputError: if a column is missing or a value is outside its range.
    """
    table = _parquet(path)
    for column in ("gender", "ethnicity", "age"):
        if column not in table.column_names:
            raise InputError(f"{path}: no column {column}; expected gender, ethnicity and age")
    _check_count(path, table.num_rows, settings)
    gender = _places(path, table, "gender", GENDERS)
    ethnicity = _places(path, table, "ethnicity", ETHNICITIES)
    try:
        age = table["age"].cast(pa.float64()).to_numpy()
    except pa.ArrowInvalid:
        raise InputError(f"{path}: column age is not a number; expected years") from None
    wrong = np.flatnonzero(~((age >= 0) & (age <= OLDEST)))
    if len(wrong):
        raise InputError(
            f"{path}: row {wrong[0] + 1}, column age: outside 0 to {OLDEST:.0f} years; correct it"
        )
    return gender, ethnicity, age


def read_histories(path: Path, vocabulary: Vocabulary, settings: Generate) -> Cohort:
    """Records to continue, as tokens, under new ids in the file's order."""
    table = artifacts.read_table(path, schemas.RECORDS)
    _check_count(path, table.num_rows, settings)
    encoded = tokens.encode(table["visits"].combine_chunks(), vocabulary)
    cohort = Cohort.from_shards(
        pa.table(
            {
                "subject_id": FIRST_SYNTHETIC_ID + np.arange(table.num_rows),
                "age_z": vocabulary.age_z(table["age"].to_numpy()),
                "gender_id": tokens.ids(table["gender"], GENDERS),
                "ethnicity_id": tokens.ids(table["ethnicity"], ETHNICITIES),
                "tokens": encoded,
            }
        )
    )
    if (cohort.tokens == vocabulary.unknown).any():
        raise InputError(f"{path}: has codes that the model does not know; map or remove them")
    return cohort


def _check_count(path: Path, rows: int, settings: Generate) -> None:
    if not rows:
        raise InputError(f"{path}: no rows; give at least one patient")
    if settings.patients not in (None, rows):
        raise InputError(f"{path}: {rows} rows, but generate.patients is {settings.patients}; set it to null")


def _parquet(path: Path) -> pa.Table:
    try:
        return pq.read_table(path)
    except (pa.ArrowInvalid, OSError):
        raise InputError(
            f"{path}: not a readable Parquet file; write it with polars, pandas or pyarrow"
        ) from None


def _places(path: Path, table: pa.Table, column: str, names: tuple[str, ...]) -> Ints:
    values = table[column].to_pylist()
    place = {name: number for number, name in enumerate(names)}
    for row, value in enumerate(values, start=1):
        if value not in place:
            raise InputError(f"{path}: row {row}, column {column}: none of {', '.join(names)}; correct it")
    return np.array([place[value] for value in values], dtype=np.int64)


# --- records -----------------------------------------------------------------------------------


def to_records(cohort: Cohort, vocabulary: Vocabulary) -> pa.Table:
    """Records in the schema of synthetic patients, in the order of their ids."""
    flat = pa.ListArray.from_arrays(pa.array(cohort.offsets, pa.int32()), pa.array(cohort.tokens, pa.int32()))
    count = len(cohort)
    return pa.table(
        {
            "subject_id": cohort.subject_id,
            "gender": np.array(GENDERS)[cohort.gender_id],
            "ethnicity": np.array(ETHNICITIES)[cohort.ethnicity_id],
            # Rounding may bring an age of 0 back as a tiny negative one.
            "age": np.maximum(vocabulary.age(cohort.age_z), 0).astype(np.float32),
            "age_capped": np.zeros(count, dtype=bool),
            "visits": tokens.decode(flat, vocabulary),
            "visit_days": pa.nulls(count, pa.list_(pa.int32())),
        }
    )


def counts(cohort: Cohort) -> dict[str, Any]:
    """Patients, visits and codes."""
    return {
        "patients": len(cohort),
        "visits": int((cohort.tokens == tokens.VISIT).sum()),
        "codes": int((cohort.tokens >= tokens.FIRST_CODE).sum()),
    }


def without_unknown(cohort: Cohort, vocabulary: Vocabulary) -> Cohort:
    """The cohort without codes outside the vocabulary, and without what they leave empty."""
    owner = np.repeat(np.arange(len(cohort)), np.diff(cohort.offsets))
    known = cohort.tokens != vocabulary.unknown
    flat, owner = cohort.tokens[known], owner[known]
    opens = (flat == tokens.VISIT) & (np.append(flat[1:], END) == tokens.VISIT_END)
    filled = ~(opens | np.append(False, opens[:-1]))
    flat, owner = flat[filled], owner[filled]
    lengths = np.bincount(owner, minlength=len(cohort))
    rows = lengths > 2
    return Cohort(
        subject_id=cohort.subject_id[rows],
        age_z=cohort.age_z[rows],
        gender_id=cohort.gender_id[rows],
        ethnicity_id=cohort.ethnicity_id[rows],
        tokens=flat[rows[owner]],
        offsets=np.concatenate([[0], np.cumsum(lengths[rows])]),
    )


def _with_tokens(people: Cohort, flat: Ints, offsets: Ints) -> Cohort:
    return Cohort(people.subject_id, people.age_z, people.gender_id, people.ethnicity_id, flat, offsets)


def _slice(cohort: Cohort, start: int, stop: int) -> Cohort:
    """The patients from `start` up to `stop`, or up to the last."""
    offsets = cohort.offsets[start : stop + 1]
    return Cohort(
        subject_id=cohort.subject_id[start:stop],
        age_z=cohort.age_z[start:stop],
        gender_id=cohort.gender_id[start:stop],
        ethnicity_id=cohort.ethnicity_id[start:stop],
        tokens=cohort.tokens[offsets[0] : offsets[-1]],
        offsets=offsets - offsets[0],
    )


def _split(cohort: Cohort) -> list[Ints]:
    return np.split(cohort.tokens, cohort.offsets[1:-1])


def _renumbered(chosen: list[tuple[Cohort, int]]) -> Cohort:
    """Single patients as one cohort under synthetic ids."""
    records = [c.tokens[c.offsets[row] : c.offsets[row + 1]] for c, row in chosen]
    return Cohort(
        subject_id=FIRST_SYNTHETIC_ID + np.arange(len(chosen)),
        age_z=np.array([c.age_z[row] for c, row in chosen], dtype=np.float32),
        gender_id=np.array([c.gender_id[row] for c, row in chosen], dtype=np.int64),
        ethnicity_id=np.array([c.ethnicity_id[row] for c, row in chosen], dtype=np.int64),
        tokens=np.concatenate(records),
        offsets=np.concatenate([[0], np.cumsum([len(record) for record in records])]).astype(np.int64),
    )


def _rng(settings: Generate, purpose: str) -> np.random.Generator:
    return np.random.default_rng([settings.seed, *purpose.encode()])
