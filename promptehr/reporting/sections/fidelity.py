"""Prevalence, lengths and conditioning of synthetic patients beside real ones and the ceiling."""

from collections.abc import Mapping
from typing import Any

from promptehr.reporting import figures
from promptehr.reporting.cells import Cell, count, decimal, percent, with_interval, with_percents, words
from promptehr.reporting.reading import find, having, reason, withheld
from promptehr.reporting.views import INTERVAL, Figure, Section, Table

MEASURES = (("r2", "R²"), ("pearson", "Pearson"), ("spearman", "Spearman"))
PARTS = (
    (("prevalence",), "all codes of the vocabulary"),
    (("prevalence", "strata", "head"), "head: at least 1 % of training patients"),
    (("prevalence", "strata", "torso"), "torso: 0.1 to 1 %"),
    (("prevalence", "strata", "tail"), "tail: below 0.1 %"),
    (("conditional_prevalence", "sex", "F"), "head codes among women"),
    (("conditional_prevalence", "sex", "M"), "head codes among men"),
    (("pairs", "same_visit"), "pairs of codes in one visit"),
    (("pairs", "next_visit"), "code, then code in the next visit"),
)
PARTS_CAPTION = (
    "The same agreement by part; the ceiling is that of the first experiment. The tail has few"
    " patients per code, so its ceiling is low as well; sexes show whether generation heeds its"
    " conditioning; pairs show whether the right codes go together."
)
FRESH_CAPTION = (
    "The same parts against {size} new patients of the simulator's own process, whom nobody has seen:"
    " what the small test split cannot tell, above all about rare codes. The ceiling is real training"
    " patients again."
)
LENGTHS = (("visits_per_patient", "Visits per patient"), ("codes_per_visit", "Codes per visit"))
RULES = {
    "males_with_pregnancy": "men with a code of pregnancy or delivery",
    "females_with_male_only": "women with a code of male organs",
    "adults_with_perinatal": "adults with a perinatal code",
}


def section(content: Mapping[str, Any]) -> Section:
    """Tables and figures over all experiments; the parts for each one."""
    judged = having(content, "fidelity")
    if not judged:
        return Section("fidelity", "Fidelity", ("No experiment is shown.", *withheld(content, "fidelity")))
    views: tuple[Table | Figure, ...] = (
        _agreement(judged),
        _scatter(judged, masked=content["small_counts"] == "masked"),
        _parts(judged, PARTS_CAPTION),
        *_fresh(judged),
        _histograms(judged),
        _lengths(judged),
        _implausible(judged),
    )
    return Section(
        "fidelity", "Fidelity: do they look like real patients?", withheld(content, "fidelity"), views
    )


# --- prevalence --------------------------------------------------------------------------------


def _agreement(judged: Mapping[str, Any]) -> Table:
    caption = (
        "Prevalence: share of patients who have a code at least once, synthetic against the real test"
        " split, over all codes. The ceiling is real training patients, as many as the synthetic ones"
        " where there are enough, against the same test split. Good is at the ceiling, not at 1: the"
        " difference is then near 0. R² is ruled by the most frequent codes and may be negative; Spearman"
        " weighs all codes alike."
    )
    head = (
        "experiment",
        *(text for _, name in MEASURES for text in (name, "ceiling", f"difference {INTERVAL}")),
    )
    rows = tuple(
        (words(name), *(cell for key, _ in MEASURES for cell in _beside_ceiling(one, ("prevalence",), key)))
        for name, one in judged.items()
    )
    return Table(caption, head, rows)


def _beside_ceiling(fidelity: Any, keys: tuple[str, ...], measure: str) -> tuple[Cell, Cell, Cell]:
    block, why = find(fidelity, *keys), reason(fidelity, *keys)
    difference = find(block, "difference", measure)
    return (
        decimal(find(block, measure), why),
        decimal(find(block, "ceiling", measure), why),
        with_interval(find(difference, "value"), find(difference, "interval"), why),
    )


def _parts(judged: Mapping[str, Any], caption: str) -> Table:
    first = next(iter(judged.values()))
    rows = tuple(
        (
            words(title if measure == "r2" else ""),
            count(_size(first, keys) if measure == "r2" else ""),
            words(name),
            decimal(find(first, *keys, "ceiling", measure), reason(first, *keys)),
            *(decimal(find(one, *keys, measure), reason(one, *keys)) for one in judged.values()),
        )
        for keys, title in PARTS
        for measure, name in (("r2", "R²"), ("spearman", "Spearman"))
    )
    return Table(caption, ("part", "codes or pairs", "", "ceiling", *judged), rows)


def _fresh(judged: Mapping[str, Any]) -> tuple[Table, ...]:
    """The same parts against new patients of the process, where it is known."""
    known = {name: one["fresh"] for name, one in judged.items() if find(one, "fresh", "patients")}
    if not known:
        return ()
    size = find(next(iter(known.values())), "patients", "real")
    return (_parts(known, FRESH_CAPTION.format(size=f"{size:,}")), _surprise(known))


def _surprise(known: Mapping[str, Any]) -> Table:
    caption = (
        "Generated patients under the true process, exactly: nats per code of those that it can produce,"
        " and the share that it cannot. Good is a difference of 0 to new patients of the process: above it,"
        " codes stand together that do not belong together; below it, all patients are of the commonest kind."
    )
    head = ("experiment", "impossible", "nats per code", "new patients", f"difference {INTERVAL}")
    rows = tuple((words(name), *_surprised(one)) for name, one in known.items())
    return Table(caption, head, rows)


def _surprised(fresh: Mapping[str, Any]) -> tuple[Cell, ...]:
    found, why = find(fresh, "surprise"), reason(fresh, "surprise")
    difference = find(found, "difference")
    return (
        percent(find(found, "synthetic", "impossible"), why),
        decimal(find(found, "synthetic", "nats_per_code"), why),
        decimal(find(found, "new", "nats_per_code"), why),
        with_interval(find(difference, "value"), find(difference, "interval"), why),
    )


def _size(fidelity: Any, keys: tuple[str, ...]) -> Any:
    """Number of codes or pairs; a group of patients has the head codes, however many these are."""
    sizes = [find(fidelity, *keys, name) for name in ("n_codes", "pairs")]
    return next((size for size in sizes if size is not None), "")


def _scatter(judged: Mapping[str, Any], *, masked: bool) -> Figure:
    hidden = " Codes that 1 to 10 real patients have are left out." if masked else ""
    caption = (
        "Each point is a code: its share among real test patients against its share among synthetic ones."
        " Good is close to the line; rare codes scatter for the smallness of the test split alone. Codes that"
        f" one side lacks have no place on logarithmic axes.{hidden}"
    )
    alt = "Prevalence of each code, real against synthetic, for " + ", ".join(judged)
    return Figure(
        figures.scatter([figures.Cloud(name, _points(one)) for name, one in judged.items()]), alt, caption
    )


def _points(fidelity: Mapping[str, Any]) -> list[tuple[float, float]]:
    points, patients = fidelity["prevalence"]["points"], fidelity["patients"]
    return [
        (real / patients["real"], synthetic / patients["synthetic"])
        for real, synthetic in zip(points["real"], points["synthetic"], strict=True)
        if not isinstance(real, str)
    ]


# --- lengths -----------------------------------------------------------------------------------


def _histograms(judged: Mapping[str, Any]) -> Figure:
    first = next(iter(judged.values()))
    panels = []
    for key, title in LENGTHS:
        real = _shares(first[key]["histogram"]["real"])
        last = _last(real)
        synthetic = {name: _shares(one[key]["histogram"]["synthetic"]) for name, one in judged.items()}
        drawn = {name: _capped(shares, last) for name, shares in synthetic.items()}
        panels.append(figures.Shares(title, title.lower(), last, _capped(real, last), drawn))
    caption = (
        "Bars are real test patients, lines synthetic ones; the last place holds all longer ones. Good is a"
        " line along the tops of the bars."
    )
    alt = "Histograms of visits per patient and of codes per visit, real and synthetic"
    return Figure(figures.histograms(panels), alt, caption)


def _shares(histogram: Mapping[str, Any]) -> dict[int, float]:
    """Shares by length, masked lengths left out."""
    shown = {int(length): number for length, number in histogram.items() if not isinstance(number, str)}
    total = sum(shown.values())
    return {length: shown[length] / total for length in sorted(shown)}


def _last(shares: Mapping[int, float]) -> int:
    """Length above which at most 1 % lie: what is longer is drawn together with it."""
    so_far = 0.0
    for length, share in shares.items():
        so_far += share
        if so_far >= 0.99:
            return length
    return max(shares, default=1)


def _capped(shares: Mapping[int, float], last: int) -> dict[int, float]:
    """Shares up to the last length, which takes in all longer ones."""
    together = sum(share for length, share in shares.items() if length >= last)
    return {**{length: share for length, share in shares.items() if length < last}, last: together}


def _lengths(judged: Mapping[str, Any]) -> Table:
    rows = tuple(
        (
            words(title if place == 0 else ""),
            words(name),
            *(decimal(find(one, key, "mean", side), digits=2) for side in ("synthetic", "real")),
            *_beside_ceiling(one, (key,), "total_variation"),
        )
        for key, title in LENGTHS
        for place, (name, one) in enumerate(judged.items())
    )
    caption = (
        "Total variation is half the summed difference of the two histograms: 0 for equal ones, 1 for"
        " disjoint ones; good is near its ceiling."
    )
    head = (
        "",
        "experiment",
        "mean",
        "mean, real",
        "total variation",
        "ceiling",
        f"difference {INTERVAL}",
    )
    return Table(caption, head, rows)


# --- conditioning ------------------------------------------------------------------------------


def _implausible(judged: Mapping[str, Any]) -> Table:
    rows = tuple(
        (words(title if place == 0 else ""), words(name), *_rule(one, rule))
        for rule, title in RULES.items()
        for place, (name, one) in enumerate(judged.items())
    )
    caption = (
        "Patients with a code that sex or age rules out. Good is the real rate, which is near 0; a higher one"
        " means that generation ignores what it was conditioned on."
    )
    head = (
        "",
        "experiment",
        "of patients",
        "affected",
        f"share {INTERVAL}",
        "share, real test",
        "excess",
    )
    return Table(caption, head, rows)


def _rule(fidelity: Mapping[str, Any], rule: str) -> tuple[Cell, ...]:
    keys = ("implausible", rule, "synthetic")
    found, why = find(fidelity, *keys), reason(fidelity, *keys)
    real = ("implausible", rule, "real")
    excess = ("implausible", rule, "excess")
    return (
        count(find(found, "patients"), why),
        count(find(found, "affected"), why),
        with_percents(find(found, "share"), find(found, "interval"), why),
        percent(find(fidelity, *real, "share"), reason(fidelity, *real), digits=2),
        with_percents(
            find(fidelity, *excess, "value"), find(fidelity, *excess, "interval"), reason(fidelity, *excess)
        ),
    )
