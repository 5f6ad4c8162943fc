"""Settings, keys and options: the only Python in the workflow.

Reads the settings once, ends with one line and status 2 where they or the files they name
cannot be used, and turns them into what rules share: inputs by name, the params that decide
staleness, and the options of the command line.
"""

import hashlib
import json
import os
import shlex
import sys
from base64 import urlsafe_b64encode
from pathlib import Path

from promptehr import locks, provenance, slurm
from promptehr.errors import PromptEHRError
from promptehr.seals import changes, jobs, stale_copies
from promptehr.settings import assignments, for_experiment
from promptehr.settings import parse as settings_from
from promptehr.source import existing, find, results_folder
from promptehr.stage_table import BY_NAME, SPLITS

# Logs and benchmarks tell of patients too: what this process and its jobs make is private.
os.umask(0o077)

# A job finds `promptehr` beside the Python that runs Snakemake, activated or not.
os.environ.update(PATH=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))

# Options of Snakemake that look at the workflow and run nothing, and one that looks like them and runs.
LOOKS = ("--lint", "--list", "--report", "--summary", "--dag", "--rulegraph", "--filegraph", "--d3dag")
RUNS = "--report-after-run"

# Tells a job on a cluster what its run was started with.
RUN = "PROMPTEHR_STARTED_WITH"


def checked(function, *arguments):
    """The function's value; an error for people is one line and the end, as in `promptehr`."""
    try:
        return function(*arguments)
    except PromptEHRError as error:
        print(f"promptehr: {error}", file=sys.stderr)
        sys.exit(error.exit_status)


# --- settings ----------------------------------------------------------------------------------

SETTINGS = checked(settings_from, config)
EXPERIMENTS = {name: for_experiment(SETTINGS, name) for name in SETTINGS.experiments}
WITH_MODEL = [name for name, settings in EXPERIMENTS.items() if settings.generate.method == "model"]
RESULTS = checked(results_folder, Path(SETTINGS.results_dir))
JOBS = jobs(SETTINGS)
SHARDS_FAN_OUT = SETTINGS.shards.count > 1


def of(wildcards):
    """The settings of a job: the experiment's, or those that all share."""
    return EXPERIMENTS[wildcards.experiment] if "experiment" in wildcards.keys() else SETTINGS


# --- inputs ------------------------------------------------------------------------------------


def source():
    """The three files of the source, by name."""
    if SETTINGS.source.kind == "simulate":
        folder = RESULTS / "simulate"
        names = dict(patients="PATIENTS", admissions="ADMISSIONS", diagnoses="DIAGNOSES_ICD")
        return {name: f"{folder}/{file}.csv" for name, file in names.items()}
    found = checked(find, Path(SETTINGS.source.path), SETTINGS.source.kind)
    return {name: str(path) for name, path in found.items()}


def records():
    """The splits. Ledgers only prove that files belong together: their age decides nothing."""
    splits = {split: f"<results>/records/{split}.parquet" for split in SPLITS}
    return {**splits, "records_ledger": ancient("<results>/records/ledger.json")}


def shard_files():
    """Every shard of every split."""
    numbers = range(SETTINGS.shards.count)
    return [f"<results>/shards/{split}/{number:05}.parquet" for split in SPLITS for number in numbers]


def shard_parts():
    """The shards and what seals them, if there are more than one and each is a job of its own."""
    if not SHARDS_FAN_OUT:
        return {}
    numbers = range(SETTINGS.shards.count)
    summaries = [f"<results>/shards/{number:05}.json" for number in numbers]
    return {"shards": shard_files(), "part_summaries": summaries}


def shards():
    """The token files, their index and the vocabulary."""
    return {
        "shards": shard_files(),
        "index": "<results>/shards/index.json",
        "shards_ledger": ancient("<results>/shards/ledger.json"),
        **vocabulary(),
    }


def vocabulary():
    return {
        "vocabulary": "<results>/vocabulary/vocabulary.json",
        "vocabulary_ledger": ancient("<results>/vocabulary/ledger.json"),
    }


def synthetic():
    """The experiment's synthetic patients."""
    return {
        "synthetic": "<results>/generate/{experiment}/synthetic.parquet",
        "generate_summary": ancient("<results>/generate/{experiment}/summary.json"),
    }


MODEL_FILES = [
    f"<results>/train/{{experiment}}/model/{name}"
    for name in (
        "config.json",
        "model.safetensors",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "README.md",
    )
]


def starting_point(wildcards):
    """The files of the checkpoint that an experiment starts from, if settings name one."""
    folder = of(wildcards).train.init_from
    names = ("config.json", "model.safetensors") if folder else ()
    files = [checked(existing, os.path.join(folder, name), "train.init_from") for name in names]
    return {"init_from": files} if files else {}


def conditioning(wildcards):
    """What an experiment generates from: its model if it has one, and files that settings name."""
    generate = of(wildcards).generate
    named = {"demographics": generate.demographics, "histories": generate.histories}
    files = {name: checked(existing, path, f"generate.{name}") for name, path in named.items() if path}
    if generate.method == "model":
        folder = f"<results>/train/{wildcards.experiment}"
        files["model"] = [file.format(experiment=wildcards.experiment) for file in MODEL_FILES]
        files["train_summary"] = ancient(f"{folder}/summary.json")
    return files


def parts(wildcards):
    """The parts that a model's patients are merged from, if there are more than one."""
    generate = of(wildcards).generate
    if generate.method != "model" or generate.parts == 1:
        return {}
    folder = f"<results>/generate/{wildcards.experiment}/parts"
    names = [f"{folder}/{number:05}-of-{generate.parts:05}" for number in range(generate.parts)]
    return {
        "parts": [f"{name}.parquet" for name in names],
        "part_summaries": [f"{name}.json" for name in names],
    }


def process():
    """The random process behind simulated patients, where there is one."""
    return {"process": "<results>/simulate/process.json"} if SETTINGS.source.kind == "simulate" else {}


def truth():
    """The process, and the true codes of the patients it is asked about."""
    names = ("test", "records_ledger") if process() else ()
    return process() | {name: path for name, path in records().items() if name in names}


def everything():
    """What the report reads, by name."""
    stages = ["ingest", "records", "vocabulary", "shards"]
    train, generate = "<results>/train/{name}", "<results>/generate/{name}"
    evaluate = "<results>/evaluate/{name}"
    return {
        "ledgers": [
            *process().values(),
            *expand("<results>/{stage}/ledger.json", stage=stages),
        ],
        "vocabulary": "<results>/vocabulary/vocabulary.json",
        "histories": expand(f"{train}/history.jsonl", name=WITH_MODEL),
        "summaries": [
            *expand(f"{train}/summary.json", name=WITH_MODEL),
            *expand(f"{generate}/summary.json", name=EXPERIMENTS),
        ],
        "evaluations": [
            *expand(f"{evaluate}/likelihood.json", name=WITH_MODEL),
            *expand(
                f"{evaluate}/{{what}}.json",
                name=EXPERIMENTS,
                what=["fidelity", "utility", "privacy"],
            ),
        ],
        "synthetics": expand(f"{generate}/synthetic.parquet", name=EXPERIMENTS),
    }


# --- params ------------------------------------------------------------------------------------


def key(stage):
    """A param per setting and per module in a stage's key, so that Snakemake names what changed."""
    first = next(iter(EXPERIMENTS.values()))
    settings = [text.partition("=")[0] for text in assignments(stage, first)]
    modules = {name: f"{name} {fingerprint}" for name, fingerprint in provenance.code(stage).items()}
    # Functions, because Snakemake reads braces in a plain text as wildcards.
    params = {name: setting(stage, name) for name in settings} | modules
    return {name.replace(".", "_"): value for name, value in params.items()}


def setting(stage, name):
    """A function from a job's wildcards to `section.key=<JSON>`."""
    return lambda wildcards: next(
        text for text in assignments(stage, of(wildcards)) if text.startswith(f"{name}=")
    )


def options(stage):
    """A function from a job to its files, settings and runtime as options of the command line."""
    row = BY_NAME[stage]

    def line(wildcards, input, output, threads):
        files = [word for name in row.inputs for word in option(name, input)]
        files += [word for name in row.outputs for word in option(name, output)]
        runtime = runtime_options(threads) if row.runtime else []
        return shlex.join([*files, *runtime, *assignments(stage, of(wildcards))])

    return line


def option(name, files):
    """`--name path` for a file, once for each of several; a model's files stand for their folder."""
    bare = name.rstrip("?*")
    given = files.get(bare, [])
    paths = [given] if isinstance(given, str) else list(given)
    if len(paths) > 1 and not name.endswith("*"):
        paths = [os.path.commonpath(paths)]
    return [word for path in paths for word in (f"--{bare.replace('_', '-')}", path)]


def runtime_options(threads):
    values = SETTINGS.runtime.model_dump() | {"threads": SETTINGS.runtime.threads or threads}
    return [word for name, value in values.items() for word in (f"--{name.replace('_', '-')}", plain(value))]


def plain(value):
    """A setting as the command line takes it: text as it is, anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value)


def gpus(wildcards):
    """GPUs that a job of a model asks for; baselines and `runtime.device: cpu` ask for none."""
    return int(of(wildcards).generate.method == "model" and SETTINGS.runtime.device != "cpu")


def gpus_to_generate(wildcards):
    """None where parts are merged: they had them."""
    return 0 if parts(wildcards) else gpus(wildcards)


# --- SLURM -------------------------------------------------------------------------------------


def memory(mb):
    """Memory by attempt: what the rule needs, then twice that; no retry after a cancelled job."""

    def of_attempt(wildcards, attempt):
        if attempt > 1 and workflow.is_main_process and uses_slurm():
            stop_if_cancelled()
        return mb * min(attempt, 2)

    return of_attempt


def uses_slurm():
    """Whether a profile for SLURM is in force: the executor itself is not known yet."""
    return bool(site_lines())


def site_lines():
    """What the profile and the command line say about partition, account and mail."""
    given = workflow.resource_settings
    by_place = {"default-resources": given._parsed_default_resources}
    by_place |= {f"set-resources, {rule}": found for rule, found in given._parsed_overwrite_resources.items()}
    return [
        slurm.Line(place, name, str(resource.raw).strip("'"))
        for place, resources in by_place.items()
        for name, resource in resources.items()
        if name.startswith("slurm_") or name in BY_NAME
    ]


def stop_if_cancelled():
    """End the run as Ctrl-C does: Snakemake alone would submit a cancelled job again."""
    new = [job for job in slurm.cancelled(Path.cwd()) if job.number not in CANCELLED]
    if new:
        raise WorkflowError(f"{', '.join(map(str, new))}: the run ends; the same command resumes it")


def wait_for_left_behind():
    """Let the jobs of a killed run end before their stages are judged: no stage runs twice."""
    jobs = checked(slurm.left_behind, Path.cwd())
    if jobs:
        print(
            f"a killed run left {', '.join(map(str, jobs))}; waiting for the end"
            f" (scancel {' '.join(job.number for job in jobs)} stops it sooner)",
            file=sys.stderr,
        )
        slurm.wait_for(jobs, Path.cwd(), tell=lambda line: print(line, file=sys.stderr))


# --- start -------------------------------------------------------------------------------------


def is_known(path):
    """Whether Snakemake has recorded how a file was made."""
    return Path(".snakemake", "metadata", urlsafe_b64encode(str(path).encode()).decode()).exists()


def copied():
    """The jobs whose artifact is there and unknown to Snakemake."""
    return [job for job in JOBS if job.seal.is_file() and not is_known(job.seal)]


def put_copies_in_order():
    """Copied artifacts get times that rise along the pipeline: Snakemake has nothing else to judge them by."""
    if found := copied():
        from promptehr.status import put_in_order  # reads Parquet's library, which others need not wait for

        checked(put_in_order, found)


def announce():
    """Say which settings are in force, what they change, and which artifacts came from elsewhere."""
    files = [os.path.relpath(file) for file in ("config.yaml", *workflow.overwrite_configfiles)]
    print(f"settings: {', '.join(files)}; results: {RESULTS}", file=sys.stderr)
    if workflow.output_settings.dryrun:
        for stage, differing in changes(JOBS, is_known).items():
            print(f"changed: {stage}: {differing}", file=sys.stderr)
    for job, differing in stale_copies(copied()).items():
        print(
            f"{job.seal}: copied here, and written with another {', '.join(differing)};"
            f" to rerun it, add to this command: --forcerun {job.stage.name}",
            file=sys.stderr,
        )


def started_with():
    """One hash of what decides every job: the settings but those of the runtime, and the code."""
    code = {stage: dict(provenance.code(stage)) for stage in BY_NAME}
    text = SETTINGS.model_dump_json(exclude={"runtime"}) + json.dumps(code, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def see_that_nothing_changed():
    """End a job that reads other settings or code than the run that submitted it: it records its own."""
    now = started_with()
    if os.environ.get(RUN, now) != now:
        print(
            "promptehr: settings or code changed after this job was submitted; give the same command again",
            file=sys.stderr,
        )
        sys.exit(2)


def take_results():
    """Hold the results folder until this process ends, and clear what dead runs left."""
    held = checked(locks.results, RESULTS)
    folders = {job.seal.relative_to(RESULTS).parts[0] for job in JOBS}
    locks.drop_dead_locks(Path(".snakemake", "locks"), RESULTS, folders)
    return held


if workflow.is_main_process:
    os.environ[RUN] = started_with()
else:
    see_that_nothing_changed()

if workflow.is_main_process and (RUNS in sys.argv or not any(w.startswith(LOOKS) for w in sys.argv[1:])):
    announce()
    if uses_slurm() and (not workflow.output_settings.dryrun or slurm.answers()):
        checked(slurm.check, site_lines())
    LOCK = None if workflow.output_settings.dryrun else take_results()
    if uses_slurm() and LOCK:
        wait_for_left_behind()
        CANCELLED = {job.number for job in slurm.cancelled(Path.cwd())}
    put_copies_in_order()
