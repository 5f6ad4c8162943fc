"""The stages of the pipeline: the one place that lists their names, files and settings.

A stage's name is at once its Snakemake rule, its subcommand, its module under
`promptehr/stages/`, its section of `config.yaml`, its folder under `results/`, and its log,
benchmark and test file. Files are named as the rule's inputs and outputs and as the
subcommand's options: `name` one path, `name?` may be left out, `name*` any number of paths.
"""

from dataclasses import dataclass
from typing import Literal

Scope = Literal["cohort", "experiment"]


@dataclass(frozen=True)
class Stage:
    """One stage: what it reads and writes and which settings are in its key.

    Attributes:
        name: The word that is rule, subcommand, module, section, folder and log.
        summary: One line for `promptehr --help`.
        inputs: Names of the files read, with `?` or `*` as above.
        outputs: Names of the files that are written; the last one seals the others.
        shared: Top-level settings in its key besides its own section.
        scope: `experiment` where each experiment has its own copy.
        runtime: Whether it takes `--device` and `--threads`.
        part_of: The stage that puts its files together, whose section of settings it has.
        resumes: Whether it keeps checkpoints, under a lease of its own.
    """

    name: str
    summary: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    shared: tuple[str, ...] = ()
    scope: Scope = "cohort"
    runtime: bool = False
    resumes: bool = False
    part_of: str | None = None

    @property
    def section(self) -> str:
        return self.part_of or self.name

    @property
    def module(self) -> str:
        return f"promptehr.stages.{self.name}"


SPLITS = ("train", "valid", "test")
RECORDS = (*SPLITS, "records_ledger")
SHARDS = ("index", "shards_ledger", "vocabulary", "vocabulary_ledger")
PEOPLE = ("model?", "train_summary?", *SHARDS, "demographics?", "histories?")
SYNTHETIC = ("synthetic", "generate_summary")

STAGES = (
    Stage(
        "simulate",
        "Write MIMIC-III-shaped CSVs drawn from a known random process.",
        inputs=(),
        outputs=("patients", "admissions", "diagnoses", "process"),
    ),
    Stage(
        "ingest",
        "Read the source's CSVs into typed, deduplicated tables; account for every row.",
        inputs=("patients", "admissions", "diagnoses"),
        outputs=("patients_table", "admissions_table", "diagnoses_table", "rejects", "ledger"),
        shared=("source",),
    ),
    Stage(
        "records",
        "Join the tables into one row per patient and split them by patient.",
        inputs=("patients_table", "admissions_table", "diagnoses_table", "ingest_ledger"),
        outputs=("train", "valid", "test", "ledger"),
    ),
    Stage(
        "vocabulary",
        "Count the training split's codes and demographics.",
        inputs=("train", "records_ledger"),
        outputs=("vocabulary", "ledger"),
    ),
    Stage(
        "shards_part",
        "Turn the records of one shard into token ids; shards lists the parts.",
        inputs=(*RECORDS, "vocabulary", "vocabulary_ledger"),
        outputs=("part_summary",),
        part_of="shards",
    ),
    Stage(
        "shards",
        "Turn records into token ids.",
        inputs=(*RECORDS, "vocabulary", "vocabulary_ledger", "part_summaries*"),
        outputs=("index", "ledger"),
    ),
    Stage(
        "train",
        "Train PromptBART on the shards, with checkpoints; publish the chosen model.",
        inputs=(*SHARDS, "init_from?"),
        outputs=("model", "history", "summary"),
        scope="experiment",
        runtime=True,
        resumes=True,
    ),
    Stage(
        "generate_part",
        "Sample some blocks of a model's synthetic patients; generate merges the parts.",
        inputs=PEOPLE,
        outputs=("part", "part_summary"),
        scope="experiment",
        runtime=True,
        part_of="generate",
    ),
    Stage(
        "generate",
        "Sample synthetic patients from a trained model, a baseline or a planted copier.",
        inputs=(*PEOPLE, "parts*", "part_summaries*"),
        outputs=("synthetic", "summary"),
        scope="experiment",
        runtime=True,
    ),
    Stage(
        "evaluate_likelihood",
        "Score held-out patients under the model, its baselines and the known optimum.",
        inputs=("model", "train_summary", *SHARDS, "process?", "test?", "records_ledger?"),
        outputs=("likelihood",),
        scope="experiment",
        runtime=True,
    ),
    Stage(
        "evaluate_fidelity",
        "Compare synthetic with real prevalence, lengths and conditioning.",
        inputs=(*SYNTHETIC, *RECORDS, "vocabulary", "vocabulary_ledger", "process?"),
        outputs=("fidelity",),
        scope="experiment",
    ),
    Stage(
        "evaluate_utility",
        "Train classifiers on synthetic patients, test them on real ones.",
        inputs=(*SYNTHETIC, *RECORDS),
        outputs=("utility",),
        scope="experiment",
    ),
    Stage(
        "evaluate_privacy",
        "Attack the synthetic patients: copies, nearest neighbours, membership.",
        inputs=(*SYNTHETIC, *RECORDS),
        outputs=("privacy",),
        scope="experiment",
    ),
    Stage(
        "report",
        "Put ledgers, curves, tables and plots on one self-contained page.",
        inputs=(
            "ledgers*",
            "vocabulary",
            "histories*",
            "summaries*",
            "evaluations*",
            "synthetics*",
        ),
        outputs=("html", "json"),
        shared=("source", "experiments"),
    ),
)

BY_NAME = {stage.name: stage for stage in STAGES}


def stage(name: str) -> Stage:
    """The stage of that name; KeyError for another word, which is a bug of ours."""
    return BY_NAME[name]
