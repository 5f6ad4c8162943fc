"""What stands for a code in the records: its granularity, the fold of rare ones, the order of ties.

Turns diagnoses and visits into the same with other code texts, and counts what it changed. Knows
codes and admissions, never sees times, ages or splits. Each distinct text is rewritten once.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import polars as pl

from promptehr import icd9, icd10
from promptehr.ingestion.texts import names_of, picked
from promptehr.settings import Records

# Odd 64-bit multipliers of the splitmix64 finaliser (Steele, Lea and Flood 2014): a cheap mixing of
# bits whose order looks random and never changes.
MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


@dataclass(frozen=True)
class Coded:
    """Diagnoses or visits under other code texts.

    Attributes:
        frame: In the order and with the columns that came in.
        names: Texts of its codes, sorted.
        rejected: Codes left out, by reason.
        noted: Codes kept, by what was done to them.
    """

    frame: pl.DataFrame
    names: Sequence[str]
    rejected: Mapping[str, int] = field(default_factory=dict)
    noted: Mapping[str, int] = field(default_factory=dict)


def coded(diagnoses: pl.DataFrame, settings: Records) -> Coded:
    """Diagnoses in the order of their visits, at the granularity of the settings.

    An ICD-10 code is written `ICD10:...`, since the same letters may be another code in ICD-9. Codes
    of an admission that become the same text are one: the first stays.

    Args:
        diagnoses: Columns of `schemas.DIAGNOSES`, `code` and `system` Enums of the texts that occur; so is
            `code` in what comes out.
        settings: Of records.
    """
    tied = _ties(diagnoses)
    diagnoses = diagnoses.select("hadm_id", "position", code=_of_both_systems(diagnoses))
    ordered = diagnoses if settings.tie_break == "code" else _by_hash(diagnoses, settings.seed)
    noted = {f"same SEQ_NUM as another, or none: ordered by {settings.tie_break}": tied}
    if settings.granularity == "full":
        return Coded(ordered, names_of(ordered["code"]), noted=noted)
    rewriters: Mapping[str, Callable[[str], str | None]] = {"category": category, "ccs": icd9.ccs_text}
    codes, changed, homeless = _rewritten(ordered["code"], rewriters[settings.granularity])
    rewritten = ordered.with_columns(code=codes)
    once = rewritten.unique(["hadm_id", "code"], keep="first", maintain_order=True)
    return Coded(
        once,
        names_of(once["code"]),
        {f"same {settings.granularity} as an earlier code of the visit": rewritten.height - once.height},
        {
            **noted,
            f"written as {settings.granularity}, repetitions included": changed,
            "in no CCS group, kept as it is": homeless,
        },
    )


def _of_both_systems(diagnoses: pl.DataFrame) -> pl.Series:
    """The codes, those of ICD-10 with their prefix."""
    codes = diagnoses["code"]
    if "icd10" not in names_of(diagnoses["system"]):
        return codes
    names = names_of(codes)
    is_ten = (diagnoses["system"] == "icd10").to_numpy()
    texts = pl.Series([*names, *(icd10.PREFIX + name for name in names)])
    return picked(texts, codes.to_physical().to_numpy() + is_ten * np.uint32(len(names)))


def folded(records: pl.DataFrame, names: Sequence[str], fold_below: int) -> Coded:
    """Records whose rare codes are their category; codes of a visit that become one are one.

    Args:
        records: One row per patient: `subject_id`, `split`, `visits`, codes as places among the names.
        names: Texts of the codes.
        fold_below: Patients of the training split that a code needs to stay itself.

    Returns:
        The records, codes as places among the texts of the result's `names`.
    """
    flat = (
        records.lazy()
        .select("subject_id", "split", "visits")
        .explode("visits")
        .with_row_index("visit")
        .explode("visits")
        .rename({"visits": "code"})
        .collect()
    )
    codes = flat.with_columns(code=picked(pl.Series(names, dtype=pl.String), flat["code"].to_numpy()))
    frequent = (
        codes.filter(split="train")
        .group_by("code")
        .agg(patients=pl.col("subject_id").n_unique())
        .filter(pl.col("patients") >= fold_below)
    )
    lasting = set(frequent["code"].to_list())
    texts, changed, _ = _rewritten(codes["code"], lambda code: code if code in lasting else category(code))
    rewritten = codes.with_columns(code=texts.to_physical())
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
        names_of(texts),
        {"rare, its category already in the visit": rewritten.height - once.height},
        {f"rarer than {fold_below} training patients, written as its category": changed},
    )


def category(text: str) -> str:
    """The category of a code of either system."""
    return icd10.category(text) if text.startswith(icd10.PREFIX) else icd9.category(text)


def _rewritten(codes: pl.Series, text: Callable[[str], str | None]) -> tuple[pl.Series, int, int]:
    """Codes under their new text; how many changed, how many have none and stay as they are."""
    names = names_of(codes)
    rows = np.bincount(codes.to_physical().to_numpy(), minlength=len(names))
    found = [text(name) for name in names]
    changed = [new is not None and new != name for new, name in zip(found, names, strict=True)]
    homeless = [new is None for new in found]
    texts = pl.Series([new or name for new, name in zip(found, names, strict=True)], dtype=pl.String)
    return (
        picked(texts, codes.to_physical().to_numpy()),
        int(rows[changed].sum()),
        int(rows[homeless].sum()),
    )


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
    names = names_of(diagnoses["code"])
    digests = (hashlib.blake2b(f"{seed}:{name}".encode()).digest()[:8] for name in names)
    of_name = np.array([int.from_bytes(digest, "big") for digest in digests], np.uint64)
    of_code = of_name[diagnoses["code"].to_physical().to_numpy()]
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
