"""Time the data stages beside bare parsing and beside plain pandas, and each check beside the others.

    python benchmarks/data.py [--scales 1 10 50] [--runs 7] [--into benchmarks/README.md]

Scale 1 is a simulated cohort of MIMIC-III's size; larger ones are copies of it under other ids.
Every measurement is one step in a process of its own, after the same step on a tiny cohort, so
that imports are paid and the peak memory is the step's. The steps take turns, and a ratio is to
the floor of the same turn, because the speed of a shared machine drifts.
"""

import argparse
import contextlib
import importlib
import importlib.metadata
import multiprocessing
import os
import platform
import resource
import shutil
import tempfile
import time
import timeit
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from promptehr import artifacts, schemas
from promptehr.ingestion import content, diagnoses, ethnicity, mimic3, structure, table, values
from promptehr.settings import from_assignments
from promptehr.stage_table import BY_NAME
from promptehr.stages import ingest, records

PANDAS_SECONDS = 90.0  # a step of pandas that would take longer is left out
PATIENTS, TINY = 46_520, 300  # MIMIC-III's; enough for every step to run
COPY_STEP = 10_000_000  # above every simulated id
FILES = {
    "patients": "source/PATIENTS.csv",
    "admissions": "source/ADMISSIONS.csv",
    "diagnoses": "source/DIAGNOSES_ICD.csv",
    "process": "source/process.json",
    **{f"{name}_table": f"ingest/{name}.parquet" for name in ("patients", "admissions", "diagnoses")},
    "rejects": "ingest/rejects.parquet",
    **{name: f"records/{name}.parquet" for name in ("train", "valid", "test")},
    "vocabulary": "vocabulary/vocabulary.json",
    "index": "shards/index.json",
    **{f"{name}_ledger": f"{name}/ledger.json" for name in ("ingest", "records", "vocabulary")},
}
BEGIN, END = "<!-- data.py begins -->", "<!-- data.py ends -->"


# --- steps -------------------------------------------------------------------------------------


def floor(folder: Path) -> None:
    """Parse the needed columns and do nothing with them."""
    for path, columns in zip(sources(folder), COLUMNS, strict=True):
        pl.read_csv(path, columns=list(columns), schema_overrides={"ICD9_CODE": pl.String})


def by_pandas(folder: Path) -> pd.DataFrame:
    """The same records as people write them in pandas: no check, no account, nothing published.

    Returns:
        Columns of `schemas.RECORDS`, sorted by `subject_id`.
    """
    people, stays, codes = (
        pd.read_csv(path, usecols=list(columns), dtype={"ICD9_CODE": str}, parse_dates=list(times))
        for path, columns, times in zip(
            sources(folder), COLUMNS, (["DOB"], ["ADMITTIME", "DISCHTIME"], []), strict=True
        )
    )
    codes = codes.sort_values(["HADM_ID", "SEQ_NUM", "ICD9_CODE"])
    codes = codes.drop_duplicates(["HADM_ID", "ICD9_CODE"])
    visits = codes.groupby("HADM_ID")["ICD9_CODE"].agg(list).rename("visits").reset_index()
    stays = stays.sort_values(["SUBJECT_ID", "ADMITTIME", "HADM_ID"])
    stays["ethnicity"] = stays["ETHNICITY"].map(ethnicity.GROUPS).fillna("UNKNOWN")
    origins = stays.groupby("SUBJECT_ID")["ethnicity"].first()
    seen = stays.merge(visits, on="HADM_ID").sort_values(["SUBJECT_ID", "ADMITTIME", "HADM_ID"])
    day = seen["ADMITTIME"].dt.normalize()
    seen["days"] = (day - day.groupby(seen["SUBJECT_ID"]).transform("min")).dt.days
    histories = seen.groupby("SUBJECT_ID").agg(
        visits=("visits", list), visit_days=("days", list), first=("ADMITTIME", "min")
    )
    joined = people.merge(histories.reset_index(), on="SUBJECT_ID").merge(
        origins.reset_index(), on="SUBJECT_ID"
    )
    years = (joined["first"].dt.normalize() - joined["DOB"].dt.normalize()).dt.days / records.DAYS_PER_YEAR
    joined["age_capped"] = years > records.HIDDEN_OVER_YEARS
    joined["age"] = years.mask(joined["age_capped"], 90.0).astype("float32")
    joined = joined.rename(columns={"SUBJECT_ID": "subject_id", "GENDER": "gender"})
    columns = [column.name for column in schemas.RECORDS.columns]
    return joined[columns].sort_values("subject_id", ignore_index=True)


def stage(name: str, folder: Path, *assignments: str) -> None:
    """One stage as its subcommand runs it, between the folder's files; without parts."""
    module, files = importlib.import_module(BY_NAME[name].module), {**FILES, "ledger": f"{name}/ledger.json"}
    read = [file for file in BY_NAME[name].inputs if not file.endswith("*")]
    module.run(
        module.Inputs(**{file: folder / files[file] for file in read}),
        module.Outputs(**{file: folder / files[file] for file in BY_NAME[name].outputs}),
        from_assignments(name, assignments),
    )


COLUMNS = tuple(mimic3.COLUMNS[name] for name in ("patients", "admissions", "diagnoses"))
Apart = Callable[..., Any]  # calls a function with arguments, as `in_own_process` does
STEPS: Mapping[str, Callable[[Path], object]] = {
    "floor": floor,
    "pandas": by_pandas,
    **{name: partial(stage, name) for name in ("ingest", "records", "vocabulary", "shards")},
}
TITLES = {"floor": "floor: needed columns parsed by polars", "pandas": "records by plain pandas, unchecked"}


def sources(folder: Path) -> list[Path]:
    return [folder / FILES[name] for name in ("patients", "admissions", "diagnoses")]


# --- cohorts -----------------------------------------------------------------------------------


def copied(once: Path, folder: Path, copies: int) -> None:
    """The files of `once` so many times over, each copy under ids of its own."""
    (folder / "source").mkdir(parents=True, exist_ok=True)
    for source, target in zip(sources(once), sources(folder), strict=True):
        texts = {name: pa.string() for name in ("DOB", "ADMITTIME", "DISCHTIME", "ICD9_CODE")}
        rows = pyarrow.csv.read_csv(
            source, convert_options=pyarrow.csv.ConvertOptions(column_types=texts, strings_can_be_null=False)
        )
        with pyarrow.csv.CSVWriter(target, rows.schema) as writer:
            for number in range(copies):
                writer.write_table(_shifted(rows, number * COPY_STEP))


def _shifted(rows: pa.Table, step: int) -> pa.Table:
    for place, name in enumerate(rows.column_names):
        if name in ("SUBJECT_ID", "HADM_ID"):
            rows = rows.set_column(place, name, pc.add(rows[name], step))
    return rows


# --- one measurement ---------------------------------------------------------------------------


def measured(step: str, folder: Path, tiny: Path) -> tuple[float, float, float]:
    """Seconds and processor seconds of a step after its like on a tiny cohort, and the peak MiB of the
    process, a fresh one."""
    STEPS[step](tiny)
    before = time.process_time()
    seconds = timeit.timeit(partial(STEPS[step], folder), number=1)
    busy = time.process_time() - before
    return seconds, busy, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


# Each part of ingest and records: what it is, and the functions that do it and nothing listed below it.
PARTS: Sequence[tuple[str, Sequence[tuple[Any, str]]]] = (
    (
        "ingest: bytes read, unpacked, UTF-8 and line ends checked",
        [(content, "_read"), (content, "_require_text"), (content, "_line_ends")],
    ),
    (
        "ingest: records counted, quotes, stray CRs and ragged records looked for",
        [(structure, name) for name in ("_marks", "_check_quotes", "_body")],
    ),
    ("ingest: needed columns parsed, ids and positions as numbers", [(table, "_parse")]),
    ("ingest: spreadsheet dates looked for", [(values, "refuse_spreadsheet_times")]),
    ("ingest: times read", [(values, "times")]),
    ("ingest: distinct words found", [(ingest, "words"), (mimic3, "words")]),
    (
        "ingest: distinct codes judged, lost zeros looked for",
        [(values, "codes"), (ingest, "refuse_lost_zeros")],
    ),
    (
        "ingest: diagnoses compared with admissions, rows rejected by reason",
        [(ingest, "reject"), (diagnoses, "_judge_piece")],
    ),
    ("ingest: repeated patients and admissions looked for", [(ingest, "_reject_repeated")]),
    (
        "ingest: diagnoses sorted, repeated codes looked for",
        [(diagnoses, name) for name in ("_cut", "_joined", "_order", "_first")],
    ),
    ("records: tables joined to visits and patients", [(records, "join")]),
    ("records: patients judged", [(records, "with_reasons")]),
    ("records: patients hashed to splits", [(records, "splits_of")]),
    ("records: ledger added up", [(records, "ledger")]),
    ("both: artifacts written", [(artifacts, "write_table")]),
    ("both: artifacts read", [(artifacts, "read_table")]),
    ("both: SHA-256 of inputs and outputs", [(artifacts, "sha256")]),
)


def parts_measured(folder: Path, runs: int) -> dict[str, list[float]]:
    """Seconds of each part, of the rest, and of ingest with records; a first run is not counted."""
    stage("ingest", folder)
    stage("records", folder)
    found: dict[str, list[float]] = {}
    with contextlib.ExitStack() as stack:
        spent: dict[str, float] = {}
        for name, functions in PARTS:
            for module, function in functions:
                stack.enter_context(_timed(module, function, spent, name))
        for _ in range(runs):
            spent.update({name: 0.0 for name, _ in PARTS})
            begin = time.perf_counter()
            stage("ingest", folder)
            stage("records", folder)
            whole = time.perf_counter() - begin
            rest = {"rest: joins, facts, ledgers, conversions": whole - sum(spent.values())}
            for name, seconds in {**spent, **rest, "ingest and records": whole}.items():
                found.setdefault(name, []).append(seconds)
    return found


@contextlib.contextmanager
def _timed(module: Any, function: str, spent: dict[str, float], name: str) -> Iterator[None]:
    """A module's function, each call of which adds the seconds it took to those spent under a name."""
    original = getattr(module, function)

    def timed(*args: Any, **options: Any) -> Any:
        begin = time.perf_counter()
        try:
            return original(*args, **options)
        finally:
            spent[name] += time.perf_counter() - begin

    setattr(module, function, timed)
    try:
        yield
    finally:
        setattr(module, function, original)


# --- all measurements --------------------------------------------------------------------------


@dataclass(frozen=True)
class Figures:
    """What was measured of one scale.

    Attributes:
        scale: Multiple of the smallest cohort.
        rows: Diagnosis rows.
        tokens: Tokens in the shards.
        seconds: Of each step, turn by turn; fewer where a step does not run in each turn.
        busy: Processor seconds of each step, likewise.
        peaks: MiB of each step, likewise.
        skipped: Why a step did not run.
    """

    scale: int
    rows: int
    tokens: int
    seconds: Mapping[str, Sequence[float]]
    busy: Mapping[str, Sequence[float]]
    peaks: Mapping[str, Sequence[float]]
    skipped: Mapping[str, str]


def in_own_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function returns in a fresh process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def measure(
    work: Path, patients: int, scales: Sequence[int], runs: int, apart: Apart = in_own_process
) -> tuple[list[Figures], Mapping[str, Sequence[float]]]:
    """Figures of each scale, ascending, and the parts at the size of one cohort."""
    tiny, once = work / "tiny", work / "once"
    apart(stage, "simulate", tiny, f"simulate.patients={min(TINY, patients)}")
    apart(stage, "simulate", once, f"simulate.patients={patients}")
    for step in STEPS:
        apart(measured, step, tiny, tiny)
    found: list[Figures] = []
    for scale in scales:
        folder = work / f"times-{scale}"
        apart(copied, once, folder, scale)
        found.append(figures_of(scale, folder, tiny, runs if scale == 1 else min(runs, 3), found, apart))
        shutil.rmtree(folder)
    with one_thread():
        return found, apart(parts_measured, once, runs)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Processes that start meanwhile have one thread: the times of parts nearly add up to the whole."""
    names = ("POLARS_MAX_THREADS", "OMP_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def figures_of(
    scale: int, folder: Path, tiny: Path, runs: int, smaller: Sequence[Figures], apart: Apart
) -> Figures:
    """All steps in turns; pandas, which is slow, once above 1x, and not where it would take too much."""
    seconds: dict[str, list[float]] = {step: [] for step in STEPS}
    busy: dict[str, list[float]] = {step: [] for step in STEPS}
    peaks: dict[str, list[float]] = {step: [] for step in STEPS}
    skipped = too_much(scale, smaller[-1]) if smaller else {}
    for turn in range(runs):
        for step in STEPS:
            if step in skipped or (step == "pandas" and turn and scale > 1):
                continue
            took, worked, peak = apart(measured, step, folder, tiny)
            seconds[step].append(took)
            busy[step].append(worked)
            peaks[step].append(peak)
    ledger = artifacts.read_json(folder / "ingest/ledger.json", schemas.LEDGER)
    index = artifacts.read_json(folder / "shards/index.json", schemas.INDEX)
    tokens = sum(shard["tokens"] for split in index["splits"].values() for shard in split)
    rows = ledger["tables"]["diagnoses"]["rows_in"]
    return Figures(scale, rows, tokens, seconds=seconds, busy=busy, peaks=peaks, skipped=skipped)


def too_much(scale: int, smaller: Figures) -> dict[str, str]:
    """Why pandas is left out: if its time or memory, grown from the smaller scale, passes a limit."""
    if smaller.skipped:
        return {"pandas": "skipped, as at the smaller scale"}
    growth = scale / smaller.scale
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    needed = max(smaller.peaks["pandas"]) / 1024 * growth
    if needed > free:
        return {"pandas": f"skipped: {needed:.0f} GiB by the smaller scale, {free:.0f} free"}
    # The median turn: the first one may have waited for others on the machine.
    seconds = median(smaller.seconds["pandas"]) * growth
    if seconds > PANDAS_SECONDS:
        return {"pandas": f"skipped: {seconds:.0f} s by the smaller scale, the limit is {PANDAS_SECONDS:.0f}"}
    return {}


# --- Markdown ----------------------------------------------------------------------------------


def markdown(found: Sequence[Figures], parts: Mapping[str, Sequence[float]], load: Sequence[float]) -> str:
    return "\n".join([*machine(load), "", *table_of_steps(found), "", *table_of_parts(parts), ""])


def machine(load: Sequence[float]) -> list[str]:
    names = ("polars", "pyarrow", "numpy", "pandas")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)
    return [
        f"{processor()}, {os.cpu_count()} cores, Python {platform.python_version()}, {versions}."
        f" Load average before {load[0]:.1f}, after {load[1]:.1f}; about 1.5 of it is the benchmark."
    ]


def processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def table_of_steps(found: Sequence[Figures]) -> Iterable[str]:
    titles = ("scale", "step", "runs", "seconds", "processor s", "times floor", "million rows/s")
    yield f"| {' | '.join((*titles, 'time per row, 1x = 1', 'peak MiB'))} |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for figures in found:
        for step in STEPS:
            if step in figures.skipped:
                yield f"| {figures.scale}x | {TITLES[step]} | 0 | {figures.skipped[step]} | | | | | |"
                continue
            peak = max(figures.peaks[step])
            yield _row(figures, found[0], TITLES.get(step, step), [step], peak)
            if step == "records":
                peak = max(peak, *figures.peaks["ingest"])
                yield _row(figures, found[0], "**ingest and records**", ["ingest", "records"], peak)
    sizes = ", ".join(f"{figures.rows:,} at {figures.scale}x" for figures in found)
    rates = ", ".join(
        f"{figures.tokens / median(figures.seconds['shards']) / 1e6:.1f} at {figures.scale}x"
        for figures in found
    )
    yield ""
    yield f"Rows are diagnosis rows: {sizes}. `shards` in million tokens/s: {rates}."


def _row(figures: Figures, first: Figures, title: str, steps: Sequence[str], peak: float) -> str:
    """Medians over the turns: of the seconds, and of the ratios to the floor of the same turn."""
    seconds = _together(figures.seconds, steps)
    ratio = median(took / floor for took, floor in zip(seconds, figures.seconds["floor"], strict=False))
    growth = median(seconds) / median(_together(first.seconds, steps)) / (figures.rows / first.rows)
    return (
        f"| {figures.scale}x | {title} | {len(seconds)} | {median(seconds):.3g}"
        f" | {median(_together(figures.busy, steps)):.3g} | {ratio:.1f}"
        f" | {figures.rows / median(seconds) / 1e6:.2f} | {growth:.2f} | {peak:,.0f} |"
    )


def _together(of_steps: Mapping[str, Sequence[float]], steps: Sequence[str]) -> list[float]:
    return [sum(turn) for turn in zip(*(of_steps[step] for step in steps), strict=True)]


def table_of_parts(parts: Mapping[str, Sequence[float]]) -> Iterable[str]:
    whole = median(parts["ingest and records"])
    yield "| part, at 1x, on one thread | milliseconds | share |"
    yield "|---|---|---|"
    for name, seconds in parts.items():
        yield f"| {name} | {1000 * median(seconds):.1f} | {median(seconds) / whole:.1%} |"


def put_into(path: Path, text: str, begin: str = BEGIN, end: str = END) -> None:
    """Replace what stands between the two marks of a Markdown file."""
    before, _, rest = path.read_text().partition(begin)
    _, mark, after = rest.partition(end)
    if not mark:
        raise SystemExit(f"{path}: has no lines {begin} and {end}; add them where the tables go")
    path.write_text(f"{before}{begin}\n{text}{end}{after}")


# --- command line ------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Time the data stages; print Markdown tables.")
    parser.add_argument("--scales", nargs="+", type=int, default=[1, 10, 50], help="multiples of the cohort")
    parser.add_argument("--runs", type=int, default=7, help="turns at 1x; no more than 3 above")
    parser.add_argument("--patients", type=int, default=PATIENTS, help="patients at 1x")
    parser.add_argument("--into", type=Path, help="Markdown file whose marked part is replaced")
    options = parser.parse_args(arguments)
    before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as work:
        found, parts = measure(Path(work), options.patients, sorted(options.scales), options.runs)
    text = markdown(found, parts, (before, os.getloadavg()[0]))
    print(text)
    if options.into:
        put_into(options.into, text)


if __name__ == "__main__":
    main()
