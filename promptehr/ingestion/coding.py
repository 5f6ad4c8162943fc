"""What stands for a code in the records: its granularity, the fold of rare ones, the order of ties.

Turns diagnoses and visits into the same with other code texts, and counts what it changed. Knows
codes and admissions, never sees times, ages or splits.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import polars as pl

from promptehr import icd9, icd10
from promptehr.settings import Records

# Odd 64-bit multipliers of the splitmix64 finaliser (Steele, Lea and Flood 2014): a cheap mixing of
# bits whose order looks random and never changes.
MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


@dataclass(frozen=True)
class Coded:
    """Diagnoses or visits under other code texts.

    Attributes:
        frame: In the order and with the columns that came in.
        rejected: Codes left out, by reason.
        noted: Codes kept, by what was done to them.
    """

    frame: pl.DataFrame
    rejected: Mapping[str, int] = field(default_factory=dict)
    noted: Mapping[str, int] = field(default_factory=dict)


def coded(diagnoses: pl.DataFrame, settings: Records) -> Coded:
    """Diagnoses in the order of their visits, at the granularity of the settings.

    An ICD-10 code is written `ICD10:...`, since the same letters may be another code in ICD-9. Codes
    of an admission that become the same text are one: the first stays.
    """
    tied = _ties(diagnoses)
    ten = pl.col("system") == "icd10"
    text = pl.when(ten).then(pl.lit(icd10.PREFIX) + pl.col("code")).otherwise("code")
    diagnoses = diagnoses.with_columns(text.alias("code"))
    ordered = diagnoses if settings.tie_break == "code" else _by_hash(diagnoses, settings.seed)
    noted = {f"same SEQ_NUM as another, or none: ordered by {settings.tie_break}": tied}
    if settings.granularity == "full":
        return Coded(ordered, noted=noted)
    texts: Mapping[str, Callable[[str], str | None]] = {"category": category, "ccs": icd9.ccs_text}
    rewritten, changed, homeless = _rewritten(ordered, texts[settings.granularity])
    once = rewritten.unique(["hadm_id", "code"], keep="first", maintain_order=True)
    return Coded(
        once,
        {f"same {settings.granularity} as an earlier code of the visit": rewritten.height - once.height},
        {
            **noted,
            f"written as {settings.granularity}, repetitions included": changed,
            "in no CCS group, kept as it is": homeless,
        },
    )


def folded(records: pl.DataFrame, fold_below: int) -> Coded:
    """Records whose rare codes are their category; codes of a visit that become one are one.

    Args:
        records: One row per patient: `subject_id`, `split`, `visits`.
        fold_below: Patients of the training split that a code needs to stay itself.
    """
    codes = (
        records.lazy()
        .select("subject_id", "split", "visits")
        .explode("visits")
        .with_row_index("visit")
        .explode("visits")
        .rename({"visits": "code"})
        .collect()
    )
    frequent = (
        codes.filter(split="train")
        .group_by("code")
        .agg(patients=pl.col("subject_id").n_unique())
        .filter(pl.col("patients") >= fold_below)
    )
    rare = ~pl.col("code").is_in(frequent["code"].to_list())
    rewritten, changed, _ = _rewritten(codes, category, rare)
    once = rewritten.unique(["visit", "code"], keep="first", maintain_order=True)
    visits = (
        once.lazy()
        .group_by("subject_id", "visit", maintain_order=True)
        .agg("code")
        .group_by("subject_id", maintain_order=True)
        .agg(visits="code")
        .collect()
    )
    return Coded(
        records.drop("visits").join(visits, on="subject_id", how="left", maintain_order="left"),
        {"rare, its category already in the visit": rewritten.height - once.height},
        {f"rarer than {fold_below} training patients, written as its category": changed},
    )


def category(text: str) -> str:
    """The category of a code of either system."""
    return icd10.category(text) if text.startswith(icd10.PREFIX) else icd9.category(text)


def _rewritten(
    codes: pl.DataFrame, text: Callable[[str], str | None], where: pl.Expr | None = None
) -> tuple[pl.DataFrame, int, int]:
    """Codes under their new text; how many changed, how many have none and stay as they are."""
    distinct = codes.filter(where if where is not None else pl.lit(value=True))["code"].unique().sort()
    table = pl.DataFrame(
        {"code": distinct, "text": [text(code) for code in distinct]},
        schema={"code": pl.String, "text": pl.String},
    )
    joined = codes.join(table.with_columns(asked=True), on="code", how="left", maintain_order="left")
    changed = joined.filter(pl.col("text").is_not_null() & (pl.col("text") != pl.col("code"))).height
    homeless = joined.filter(pl.col("asked") & pl.col("text").is_null()).height
    renamed = joined.with_columns(code=pl.coalesce("text", "code")).select(codes.columns)
    return renamed, changed, homeless


def _ties(diagnoses: pl.DataFrame) -> int:
    """Rows whose SEQ_NUM another row of the admission has too, or that have none beside others."""
    same = diagnoses.select(
        (pl.col("hadm_id") == pl.col("hadm_id").shift(1))
        & pl.col("position").eq_missing(pl.col("position").shift(1))
    ).to_series()
    before = same.fill_null(value=False).to_numpy()
    return int((before | np.append(before[1:], False)).sum()) if len(before) else 0


def _by_hash(diagnoses: pl.DataFrame, seed: int) -> pl.DataFrame:
    """Diagnoses by admission and SEQ_NUM, those that tie in the order of their hashes."""
    names = diagnoses["code"].unique().sort()
    digests = {code: hashlib.blake2b(f"{seed}:{code}".encode()).digest()[:8] for code in names}
    of_code = np.array([int.from_bytes(digests[code], "big") for code in diagnoses["code"]], np.uint64)
    place = mixed(of_code ^ mixed(diagnoses["hadm_id"].to_numpy().astype(np.uint64)))
    return (
        diagnoses.with_columns(place=place)
        .sort("hadm_id", "position", "place", "code", nulls_last=True)
        .drop("place")
    )


def mixed(bits: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The 64 bits of each number stirred so that neighbours are far apart; one to one."""
    bits = (bits ^ (bits >> np.uint64(30))) * MIX[0]
    bits = (bits ^ (bits >> np.uint64(27))) * MIX[1]
    return bits ^ (bits >> np.uint64(31))
