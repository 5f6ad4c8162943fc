"""The settings: one frozen model per section of config.yaml, with range and reason per field.

Turns the merged mapping that Snakemake or the command line read into validated values, and
validated values into the strings `section.key=<canonical JSON>` that rules carry as params and
subcommands take as arguments. Reads no files and knows no stage code.
"""

import ast
import difflib
import inspect
import json
import os
import re
from collections.abc import Iterable, Mapping
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from promptehr.errors import SettingsError
from promptehr.stage_table import BY_NAME

Seed = Annotated[int, Field(ge=0, lt=2**32)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Count = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """A section of config.yaml: frozen, and every unknown key is refused."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        defer_build=True,
    )


S = TypeVar("S", bound=Section)


@cache
def meanings(model: type[Section]) -> Mapping[str, str]:
    """The docstring below each field of a section, by the field's name.

    Read off the source when somebody asks: pydantic would do so whenever the settings are imported, and
    every start of Snakemake would wait for it.
    """
    tree = ast.parse(Path(__file__).read_text("utf-8"))
    [body] = (n.body for n in tree.body if isinstance(n, ast.ClassDef) and n.name == model.__name__)
    return {
        field.target.id: inspect.cleandoc(text.value.value)
        for field, text in pairwise(body)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
        and isinstance(text.value.value, str)
    }


class Source(Section):
    """Where the patients come from."""

    kind: Literal["simulate", "mimic3", "mimic4"] = "simulate"
    """`simulate` draws MIMIC-III-shaped patients; `mimic3` and `mimic4` read a folder of MIMIC's CSVs."""
    path: str | None = None
    """Folder with PATIENTS, ADMISSIONS and DIAGNOSES_ICD (.csv or .csv.gz), of mimic4 also the one with
    hosp/; unused by simulate."""

    @model_validator(mode="after")
    def path_goes_with_kind(self) -> "Source":
        if self.kind != "simulate" and not self.path:
            raise ValueError(f"source.path: a folder is needed when source.kind is {self.kind}")
        return self


class Dirt(Section):
    """Defects planted in the simulated files after sampling; each a share of its table's rows, 0 plants none.

    Only unknown_gender changes a drawn patient's record.
    """

    repeated_patients: Share = 0.0
    """Patient rows that stand twice."""
    unreadable_births: Share = 0.0
    """Added patients whose date of birth is missing or no date."""
    impossible_ages: Share = 0.0
    """Added patients, with an admission and a code, who would be 160 years old."""
    unknown_gender: Share = 0.0
    """Patients whose gender is blank or neither M nor F; the optimum is not known for them."""
    unusable_ids: Share = 0.0
    """Added rows of each table whose id is missing, not a whole number or out of range."""
    repeated_admissions: Share = 0.0
    """Admission rows that stand twice."""
    orphan_admissions: Share = 0.0
    """Added admissions of a patient that PATIENTS does not have."""
    admissions_before_birth: Share = 0.0
    """Added admissions on 1 January 1753, the oldest date of some databases."""
    unreadable_admissions: Share = 0.0
    """Added admissions whose time is missing or no time."""
    codeless_admissions: Share = 0.0
    """Added later admissions whose one diagnosis has no code; about 0.001 in hospital data."""
    reversed_stays: Share = 0.0
    """Admissions that end before they begin."""
    unreadable_discharges: Share = 0.0
    """Admissions whose time of discharge is no time."""
    blank_ethnicity: Share = 0.0
    """Admissions, never a patient's first, without an ethnicity."""
    mixed_ethnicity: Share = 0.0
    """Admissions, never a patient's first, with a text of another ethnicity group."""
    null_codes: Share = 0.0
    """Added diagnoses without a code; MIMIC-III has 47 in 651,047 rows: 7.2e-5."""
    malformed_codes: Share = 0.0
    """Added diagnoses whose code is no ICD-9-CM code."""
    repeated_codes: Share = 0.0
    """Diagnosis rows that stand twice."""
    orphan_diagnoses: Share = 0.0
    """Added diagnoses of an admission that ADMISSIONS does not have."""
    foreign_diagnoses: Share = 0.0
    """Added diagnoses whose patient is not the admission's."""
    rewritten_codes: Share = 0.0
    """Diagnoses whose code is written with dot, small letter and space."""
    blank_positions: Share = 0.0
    """Diagnoses, always the last of their admission, without a SEQ_NUM."""


class Simulate(Section):
    """The embedded source: a random process with a known likelihood."""

    patients: Count = 46_520
    """Patients to draw; MIMIC-III has 46,520."""
    seed: Seed = 1
    """Seed of the process and of the dirt; same seed, same bytes."""
    dirt: Dirt = Dirt()
    """Defects planted after sampling."""


class Ingest(Section):
    """Reading the source's files."""

    max_rejected_share: Literal["auto"] | Share = "auto"
    """Largest share of rows of one table that may be rejected before the stage stops; auto: 0.05 in
    tables of 100 rows or more, while smaller ones must only keep a row."""
    max_zeroless_share: Share = 0.01
    """Largest share of numeric codes that are ICD-9-CM codes only with zeros in front, and of rows whose
    code is a float (4019.0), if it is more than one row; 1.0 also accepts 1,000 numeric codes of which
    none begins with 0."""
    icd10: Literal["keep", "map", "drop"] = "keep"
    """What becomes of ICD-10 codes, which mimic4 alone has: `keep` them as `ICD10:...`, `map` them to ICD-9
    (approximate; those without a match are rejected), `drop` them. keep, because only it loses nothing."""


class Split(Section):
    """Shares of the patients; valid chooses checkpoints, test is only reported."""

    train: Share = 0.8
    """Share that the vocabulary and the model see."""
    valid: Share = 0.1
    """Share that chooses the checkpoint."""
    test: Share = 0.1
    """Share that the evaluation reports."""

    @model_validator(mode="after")
    def shares_sum_to_one(self) -> "Split":
        if abs(self.train + self.valid + self.test - 1.0) > 1e-9:
            raise ValueError("train + valid + test must be 1")
        return self


class Records(Section):
    """One row per patient, and the split."""

    seed: Seed = 1
    """Seed of the hash that assigns patients to splits."""
    split: Split = Split()
    """Shares of the three splits."""
    min_age: Annotated[float, Field(ge=0.0, le=120.0)] = 0.0
    """Smallest age at the first visit in years of 365.2425 days; 18 leaves adults only, to the day: a
    birthday may count as the day before it."""
    age_cap: Annotated[float, Field(ge=89.0, le=120.0)] = 90.0
    """Years that ages over 89, which MIMIC hides, are set to."""
    newborns: Literal["keep", "drop"] = "keep"
    """Patients under 28 days at the first visit: 13 % of MIMIC-III's admissions, nothing like the rest.
    Where the year of birth alone is known, those of age 0."""
    min_visits: Count = 1
    """Visits a patient must have; more than 1 drops about 84 % of MIMIC-III."""
    patients: Count | None = None
    """Patients kept of those that pass, a draw by hash that no order of rows changes; null keeps all."""
    granularity: Literal["full", "category", "ccs"] = "full"
    """`full` ICD codes, their `category` (3 characters, 4 for external causes), or the `ccs` group."""
    fold_below: Annotated[int, Field(ge=0)] = 0
    """Training patients a code needs to stay itself; rarer ones become their category. 0 folds none."""
    tie_break: Literal["code", "hash"] = "code"
    """Order of codes with the same SEQ_NUM, or none: by `code`, or by a `hash` of admission and code."""

    @model_validator(mode="after")
    def folding_needs_full_codes(self) -> "Records":
        if self.fold_below and self.granularity != "full":
            raise ValueError("fold_below needs granularity full: the others have no rarer codes to fold")
        return self


class Vocabulary(Section):
    """Which codes the model knows."""

    min_patients: Count = 1
    """Training patients a code needs; rarer codes become <unk>."""


class Shards(Section):
    """Token files."""

    count: Annotated[int, Field(ge=1, le=4096)] = 1
    """Files per split; patients are spread over them by a hash. More than one: a job for each."""
    max_tokens: Annotated[int, Field(ge=8, le=1022)] = 256
    """Longest sequence, BOS and END included; longer histories lose whole visits."""
    drop: Literal["oldest", "newest"] = "newest"
    """Which visits a longer history loses."""


class Shape(Section):
    """Size of the BART encoder-decoder; the defaults are BART-base."""

    width: Annotated[int, Field(ge=8, le=4096)] = 768
    """d_model; a multiple of heads."""
    encoder_layers: Annotated[int, Field(ge=1, le=48)] = 6
    """Encoder layers."""
    decoder_layers: Annotated[int, Field(ge=1, le=48)] = 6
    """Decoder layers."""
    heads: Annotated[int, Field(ge=1, le=64)] = 12
    """Attention heads."""
    feed_forward: Annotated[int, Field(ge=8, le=16384)] = 3072
    """Width of the feed-forward layers."""
    positions: Annotated[int, Field(ge=16, le=8192)] = 1024
    """Positions, prompts included."""

    @model_validator(mode="after")
    def heads_divide_width(self) -> "Shape":
        if self.width % self.heads:
            raise ValueError(f"width must be a multiple of heads ({self.heads})")
        return self


class Prompt(Section):
    """Learned vectors that carry the demographics."""

    length: Annotated[int, Field(ge=0, le=64)] = 1
    """Prompt vectors per feature; 0 trains without demographics."""
    width: Annotated[int, Field(ge=1, le=4096)] = 128
    """Width of the space in which features are embedded before the map to the model's width."""


class Conditions(Section):
    """Weights of the training conditions; they are normalised to sum to 1."""

    prompt: Annotated[float, Field(ge=0.0)] = 0.5
    """Encoder sees the prompts only: this is generation."""
    history: Annotated[float, Field(ge=0.0)] = 0.25
    """Encoder sees the visits before a split point, decoder writes the rest."""
    denoise: Annotated[float, Field(ge=0.0)] = 0.25
    """Encoder sees a corrupted record, decoder writes the clean one."""

    @model_validator(mode="after")
    def prompt_is_trained(self) -> "Conditions":
        if self.prompt <= 0.0:
            raise ValueError("prompt must be above 0: it is the condition that generation uses")
        return self


class Corruption(Section):
    """What the encoder sees under the denoise condition."""

    span_share: Share = 0.3
    """Share of the codes that span infilling replaces, one <mask> per span."""
    span_mean: Annotated[float, Field(gt=0.0, le=20.0)] = 3.0
    """Mean of the Poisson span length, codes."""
    delete_share: Share = 0.1
    """Share of the codes deleted."""
    replace_share: Share = 0.1
    """Share of the codes replaced by a random code."""


class Train(Section):
    """The PromptBART training loop; the defaults are the reference's hyperparameters."""

    seed: Seed = 1
    """Seed of weights, order, dropout and corruption."""
    shape: Shape = Shape()
    """Size of the model."""
    prompt: Prompt = Prompt()
    """Demographic prompts."""
    init_from: str | None = None
    """Folder of a local BART checkpoint whose transformer weights, not embeddings, training starts from;
    null starts at random."""
    pointer_width: Annotated[int, Field(ge=0, le=1024)] = 16
    """Width of the attention that points at codes of earlier visits; 0 points at none."""
    kinds: bool = True
    """Whether it is decided first, from counted odds on, if a visit or record ends; then which code comes."""
    offsets: bool = True
    """Whether logits start at what counting codes by age band, sex and ethnicity knows."""
    group_embeddings: bool = True
    """Whether codes of one clinical group (CCS) share a part of their embeddings."""
    conditions: Conditions = Conditions()
    """Mix of training conditions."""
    corruption: Corruption = Corruption()
    """Noise of the denoise condition."""
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.1
    """Dropout of the transformer."""
    epochs: Count = 30
    """Passes over the training patients; fixes the learning-rate schedule."""
    stop_after_epochs: Annotated[int, Field(ge=1)] | None = None
    """Stop early without changing the schedule; raising it resumes. null runs all epochs."""
    batch_patients: Count | None = 16
    """Patients per step; null where batch_tokens is given."""
    batch_tokens: Annotated[int, Field(ge=64)] | None = None
    """Padded tokens per step, of encoder or decoder, whichever are more; needs batch_patients: null."""
    learning_rate: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0e-4
    """Peak AdamW learning rate."""
    weight_decay: Annotated[float, Field(ge=0.0, le=1.0)] = 0.01
    """AdamW weight decay; not on biases, norms and embeddings."""
    warmup_steps: Annotated[int, Field(ge=0)] = 500
    """Steps of linear warm-up; linear decay to zero follows."""
    max_grad_norm: Annotated[float, Field(gt=0.0)] = 1.0
    """Gradient norm is clipped to this."""
    label_smoothing: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Smoothing of the training loss; reported perplexities are never smoothed."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Arithmetic; auto is bf16 on hardware that multiplies bf16 matrices itself, else fp32."""
    compile: Literal["auto", "off"] = "auto"
    """Compiled graphs; auto uses them on a GPU."""
    deterministic: bool = False
    """On a GPU only arithmetic that repeats bit for bit, some of it slower; on a CPU it always does."""
    patience: Count | None = None
    """Stop after so many epochs without a better validation NLL; null never stops early."""
    checkpoint_every: Count = 5
    """Epochs between checkpoints; the best and the last are always kept."""
    keep_checkpoints: Count = 3
    """Periodic checkpoints kept."""
    publish: Literal["best", "last"] | Annotated[int, Field(ge=1)] = "best"
    """Which weights become the model: best generation-condition validation NLL, last, or epoch."""

    @model_validator(mode="after")
    def one_size_of_a_batch(self) -> "Train":
        if (self.batch_patients is None) == (self.batch_tokens is None):
            raise ValueError("exactly one of batch_patients and batch_tokens must be given, the other null")
        return self


class Copy(Section):
    """The planted copier, a control for the privacy evaluation."""

    share: Share = 1.0
    """Share of the patients that are training records; the rest are held-out ones."""


class Generate(Section):
    """Sampling synthetic patients."""

    method: Literal["model", "unigram", "bigram", "copy"] = "model"
    """The trained model, a baseline (by sex and age band), or the planted copier."""
    patients: Count | None = None
    """Patients to generate; null: as many as the training split has."""
    parts: Annotated[int, Field(ge=1, le=1000)] = 1
    """Jobs that a model's patients are divided among; the merged file is the same for any number."""
    seed: Seed = 1
    """Seed of demographics and sampling."""
    temperature: Annotated[float, Field(gt=0.0, le=10.0)] = 1.0
    """Divides the logits; 1 samples the model's own distribution."""
    top_k: Annotated[int, Field(ge=0)] = 0
    """Keep the k likeliest codes at each step; 0 keeps all."""
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Keep the likeliest codes up to this probability; 1 keeps all."""
    demographics: str | None = None
    """Parquet file with gender, ethnicity and age to condition on; null draws them."""
    histories: str | None = None
    """Parquet file in the records schema whose patients are continued; null starts anew."""
    copy_: Copy = Field(default=Copy(), alias="copy")
    """The planted copier."""

    @model_validator(mode="after")
    def one_way_of_conditioning(self) -> "Generate":
        if self.demographics and self.histories:
            raise ValueError("demographics and histories exclude each other: histories carry both")
        if self.histories and self.method != "model":
            raise ValueError(f"histories need method model, not {self.method}")
        return self


class EvaluateLikelihood(Section):
    """Held-out likelihood."""

    seed: Seed = 1
    """Seed of the bootstrap and of the denoise corruption."""
    bootstrap: Annotated[int, Field(ge=100, le=100_000)] = 1000
    """Patient bootstrap resamples behind each 95 % interval."""
    conditioning_patients: Count = 2000
    """Test patients, at most, scored with other demographics to see what the model makes of them."""


class EvaluateFidelity(Section):
    """Synthetic against real distributions."""

    seed: Seed = 1
    """Seed of the bootstrap and of the ceiling's subsample."""
    bootstrap: Annotated[int, Field(ge=100, le=100_000)] = 1000
    """Patient bootstrap resamples behind each 95 % interval."""
    pair_min_patients: Count = 20
    """Real test patients a code pair needs to be compared."""
    fresh_patients: Annotated[int, Field(ge=0)] = 20_000
    """New patients of a simulated cohort's own process to compare with as well; 0 draws none."""
    scored_patients: Count = 1000
    """Synthetic and new patients whose probability under that process is computed; 3 ms each."""


class EvaluateUtility(Section):
    """Train on synthetic, test on real."""

    seed: Seed = 1
    """Seed of the bootstrap."""
    bootstrap: Annotated[int, Field(ge=100, le=100_000)] = 1000
    """Patient bootstrap resamples behind each 95 % interval."""
    tasks: Annotated[int, Field(ge=1, le=50)] = 10
    """Most frequent chronic CCS groups to predict."""
    min_positives: Count = 20
    """Positives in real train and real test that a task needs."""
    train_patients: Count = 200_000
    """Synthetic and real patients, at most, that a classifier is trained on: a draw, where there are more."""


class EvaluatePrivacy(Section):
    """Attacks on the synthetic patients."""

    seed: Seed = 1
    """Seed of the draws and of the bootstrap."""
    bootstrap: Annotated[int, Field(ge=100, le=100_000)] = 1000
    """Patient bootstrap resamples behind each 95 % interval."""
    min_codes: Count = 5
    """Codes a record needs to count as an exact copy."""
    min_members: Count = 300
    """Members and non-members an attack needs; fewer give null with the reason."""
    attacked_patients: Count = 10_000
    """Patients of a set, at most, that an attack asks about; where it looks for them stays as large."""

    @model_validator(mode="after")
    def members_enough_are_asked_about(self) -> "EvaluatePrivacy":
        if self.attacked_patients < self.min_members:
            raise ValueError(f"attacked_patients must be at least min_members ({self.min_members})")
        return self


class Report(Section):
    """The page."""

    title: str = "Synthetic patients"
    """Heading of the page."""
    examples: Annotated[int, Field(ge=0, le=100)] = 10
    """Synthetic patients shown with code titles."""
    small_counts: Literal["auto", "mask", "show"] = "auto"
    """Counts of real patients below 11: auto masks them unless the source is simulated."""


class Runtime(Section):
    """How jobs run; in no stage's key, so that a change reruns nothing."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device of train, generate and evaluate_likelihood; auto takes a GPU if there is one."""
    threads: Count | None = None
    """CPU threads of those stages; null takes what the rule was given."""
    log_every_s: Annotated[float, Field(gt=0.0)] = 30.0
    """Seconds between progress lines in the log of those stages; the others write one every 30 s."""
    tensorboard: bool = False
    """Write TensorBoard event files beside the checkpoints; needs the tensorboard package."""
    resume: Annotated[str, Field(pattern=r"^(auto|require|step-[0-9]{8})$")] = "auto"
    """train only: auto continues from the newest checkpoint, require refuses to start over,
    a checkpoint's name continues from that one."""


class Overrides(Section):
    """What an experiment may change: partial sections, merged over the ones above."""

    train: dict[str, Any] = {}
    """Keys of train."""
    generate: dict[str, Any] = {}
    """Keys of generate."""
    evaluate_likelihood: dict[str, Any] = {}
    """Keys of evaluate_likelihood."""
    evaluate_fidelity: dict[str, Any] = {}
    """Keys of evaluate_fidelity."""
    evaluate_utility: dict[str, Any] = {}
    """Keys of evaluate_utility."""
    evaluate_privacy: dict[str, Any] = {}
    """Keys of evaluate_privacy."""


ExperimentName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,39}$")]


class Settings(Section):
    """All of config.yaml."""

    results_dir: Annotated[str, Field(pattern=r"^[^{}<>]+$"), AfterValidator(os.path.normpath)] = "results"
    """Folder of all artifacts, logs and benchmarks; relative to the working folder."""
    source: Source = Source()
    simulate: Simulate = Simulate()
    ingest: Ingest = Ingest()
    records: Records = Records()
    vocabulary: Vocabulary = Vocabulary()
    shards: Shards = Shards()
    train: Train = Train()
    generate: Generate = Generate()
    evaluate_likelihood: EvaluateLikelihood = EvaluateLikelihood()
    evaluate_fidelity: EvaluateFidelity = EvaluateFidelity()
    evaluate_utility: EvaluateUtility = EvaluateUtility()
    evaluate_privacy: EvaluatePrivacy = EvaluatePrivacy()
    report: Report = Report()
    runtime: Runtime = Runtime()
    experiments: dict[ExperimentName, Overrides] = Field(default={"base": Overrides()})
    """Named variations; each reruns only train, generate and evaluate_*."""


# Keys whose value says where something lies, not what it is, so that the content decides staleness;
# and into how many jobs the work is divided, which changes no byte.
NOT_IN_KEY = frozenset(
    {"source.path", "train.init_from", "generate.demographics", "generate.histories", "generate.parts"}
)

# How often and which weights are kept does not change a single one of them.
NOT_IN_RUN_KEY = frozenset(
    {
        "train.stop_after_epochs",
        "train.checkpoint_every",
        "train.keep_checkpoints",
        "train.publish",
        "train.patience",
    }
)


def parse(merged: Mapping[str, Any]) -> Settings:
    """Validate the merged settings as a whole, every experiment included.

    Raises:
        SettingsError: naming the key, what was seen, what is expected.
    """
    settings = _validated(Settings, merged, prefix="")
    for name in settings.experiments:
        for_experiment(settings, name)
    return settings


def for_experiment(settings: Settings, name: str) -> Settings:
    """The settings with one experiment's overrides merged into its sections.

    Raises:
        SettingsError: for an unknown experiment or an override out of range.
    """
    if name not in settings.experiments:
        raise SettingsError(f"experiments.{name}: unknown{_suggestion(name, settings.experiments)}")
    overrides = settings.experiments[name]
    sections = {
        section: _validated(
            type(getattr(settings, section)),
            merge(_plain(getattr(settings, section)), changes),
            prefix=f"experiments.{name}.{section}",
        )
        for section, changes in ((field, getattr(overrides, field)) for field in Overrides.model_fields)
        if changes
    }
    return settings.model_copy(update=sections)


def stage_sections(stage: str, settings: Settings) -> dict[str, Any]:
    """The sections in a stage's key, by name: its own and the shared ones."""
    return {name: getattr(settings, name) for name in (BY_NAME[stage].section, *BY_NAME[stage].shared)}


def assignments(stage: str, settings: Settings) -> list[str]:
    """A stage's key from settings: `section.key=<canonical JSON>` per leaf, in order of the models.

    Experiments are named only: what they change is in their own stages' keys.
    """
    found = []
    for name, section in stage_sections(stage, settings).items():
        if name == "experiments":
            found.append(f"experiments={_canonical(list(section))}")
        else:
            found += [f"{key}={value}" for key, value in leaves(_plain(section), name)]
    return [text for text in found if text.partition("=")[0] not in NOT_IN_KEY]


def run_key_settings(settings: Settings) -> list[str]:
    """The assignments of train that decide the weights: checkpoints of others are not resumed."""
    return [text for text in assignments("train", settings) if text.partition("=")[0] not in NOT_IN_RUN_KEY]


def from_assignments(stage: str, given: Iterable[str]) -> Settings:
    """Settings with the given assignments over the defaults, for one run of one stage.

    Raises:
        SettingsError: for text without `=`, a key outside the stage's sections, a bad value.
    """
    allowed = (BY_NAME[stage].section, *BY_NAME[stage].shared)
    merged: dict[str, Any] = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not equals:
            raise SettingsError(f"{text}: expected section.key=value, for instance {stage}.seed=1")
        section = key.partition(".")[0]
        if section not in allowed:
            raise SettingsError(
                f"{key}: not a setting of {stage}{_suggestion(section, allowed)};"
                f" its sections are {', '.join(allowed)}"
            )
        if key == "experiments":
            merged["experiments"] = {name: {} for name in _json(key, value)}
        else:
            _place(merged, key.split("."), _json(key, value))
    # A job is told where its files lie by its options; the folder is the workflow's business.
    if merged.get("source", {}).get("kind", "simulate") != "simulate":
        merged["source"].setdefault("path", ".")
    return parse(merged)


def runtime_from(given: Iterable[str]) -> Runtime:
    """Runtime settings from `key=value` texts, as the options of a stage give them.

    Raises:
        SettingsError: naming the key, what was seen, what is expected.
    """
    values = {key: _json(f"runtime.{key}", value) for key, _, value in (t.partition("=") for t in given)}
    return _validated(Runtime, values, prefix="runtime")


def leaves(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """The values of nested sections as (dotted key, canonical JSON), in their order."""
    found = []
    for name, value in tree.items():
        key = f"{prefix}.{name}" if prefix else name
        found += leaves(value, key) if isinstance(value, dict) and value else [(key, _canonical(value))]
    return found


def _plain(section: Section) -> dict[str, Any]:
    return section.model_dump(by_alias=True)


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _json(key: str, text: str) -> Any:
    """The JSON value, or the text itself, so that `generate.method=unigram` can be typed."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        if text.startswith(('"', "{", "[")):
            raise SettingsError(f"{key}: value is not valid JSON") from None
        return text


def _place(tree: dict[str, Any], path: list[str], value: Any) -> None:
    for key in path[:-1]:
        inner = tree.setdefault(key, {})
        if not isinstance(inner, dict):
            raise SettingsError(f"{'.'.join(path)}: {key} is given both as a value and as a section")
        tree = inner
    tree[path[-1]] = value


def merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The base with the changes over it: maps merge key by key, anything else is replaced."""
    both = dict(base)
    for key, value in changes.items():
        maps = isinstance(value, Mapping) and isinstance(both.get(key), Mapping)
        both[key] = merge(both[key], value) if maps else value
    return both


def _validated(model: type[S], values: Any, *, prefix: str) -> S:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise SettingsError(_one_line(model, error, prefix)) from None


def _one_line(model: type[Section], error: ValidationError, prefix: str) -> str:
    """The first problem as `key: seen, expected`; further ones are counted."""
    problems = error.errors(include_url=False)
    first = problems[0]
    # A union adds the name of the branch it tried; only keys of the file help the reader.
    path = [
        str(part)
        for part in first["loc"]
        if not str(part).startswith(("literal[", "constrained-", "function-"))
    ]
    key = ".".join([prefix, *path] if prefix else path) or "settings"
    if first["type"] == "extra_forbidden":
        message = f"{key}: unknown setting{_suggestion(path[-1], _fields(model, path[:-1]))}"
        if path[0] == "experiments" and len(path) == 3:
            message += f"; an experiment changes keys of {', '.join(Overrides.model_fields)}"
    elif first["type"] == "value_error":
        said = str(first["ctx"]["error"])
        message = said if said.startswith(f"{key}.") else f"{key}: {said}"
    elif first["input"] is None:
        message = f"{key}: empty; give it a value or delete the line to get the default"
    elif first["type"] == "string_pattern_mismatch":
        name = key.removesuffix(".[key]")
        message = f"{name}: must match {first['ctx']['pattern']}, got {_seen(first['input'])}; correct it"
    elif path[-1] == "[key]":
        message = (
            f"{key.removesuffix('.[key]')}: a name is text, got {_seen(first['input'])}; put it in quotes"
        )
    elif first["type"] in ("model_type", "model_attributes_type", "dict_type"):
        message = f"{key}: expected keys below it, got {_seen(first['input'])}"
    else:
        message = f"{key}: {first['msg']}, got {_seen(first['input'])}"
    return message + (f" (and {len(problems) - 1} more)" if len(problems) > 1 else "")


def _seen(value: Any) -> str:
    if isinstance(value, dict | list):
        return "a section" if isinstance(value, dict) else "a list"
    if not isinstance(value, str) or not _is_number(value):
        return f"{value!r}"
    is_power = re.fullmatch(r"[+-]?\d+[eE][+-]?\d+", value)
    return f"{value!r} as text ({'write 1.0e-4, not 1e-4' if is_power else 'leave the quotes out'})"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _fields(model: type[Section], path: Iterable[str]) -> list[str]:
    """The keys that the section at this path knows."""
    inner: type[Section] = model
    for key in path:
        by_key = {field.alias or name: field.annotation for name, field in inner.model_fields.items()}
        # The name of an experiment is not a field: it stays at the section of overrides.
        annotation = by_key.get(key)
        candidates = (annotation, *get_args(annotation))
        inner = next((c for c in candidates if isinstance(c, type) and issubclass(c, Section)), inner)
    return [field.alias or name for name, field in inner.model_fields.items()]


def _suggestion(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""
