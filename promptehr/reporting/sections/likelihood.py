"""Held-out likelihood per condition and token class, beside baselines and optimum."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from promptehr.reporting.cells import (
    Cell,
    count,
    decimal,
    interval,
    percent,
    perplexity,
    verdict,
    with_interval,
    with_percents,
    words,
)
from promptehr.reporting.reading import CONDITIONS, find, having, reason, withheld
from promptehr.reporting.views import INTERVAL, Section, Table

TITLES = {
    "prompt": "prompt (generation: demographics only)",
    "history": "history (earlier visits shown)",
    "denoise": "denoise (corrupted record shown)",
    "copy": "copy (the answer shown: leak check)",
}
FEATURES = (("gender", "sex"), ("age", "age"), ("ethnicity", "ethnicity"))
CLASSES = ("codes", "structure", "all")
GAPS = {
    ("gap_closed", "prompt"): "prompt condition, codes",
    ("gap_closed_all", "prompt"): "prompt condition, every token",
    ("gap_closed", "history"): "history condition, codes",
}
BASELINES = {
    "unigram": "unigram",
    "demographic_unigram": "unigram by sex and age band",
    "bigram": "bigram",
}
WHY_NOT_15 = (
    "Why not a perplexity of 10 to 15? That figure comes from letting the encoder see the very sequence that"
    " the decoder must write: it measures copying. Under the prompt condition, which is what generation uses,"
    " the model chooses among all codes of the vocabulary knowing only age, sex and ethnicity; an honest"
    " perplexity is then in the tens to hundreds, and what counts is where it lies between the baselines"
    " (worse) and the optimum (the best possible)."
)


def section(content: Mapping[str, Any]) -> Section:
    """The tables of every experiment that has a trained model."""
    scored = having(content, "likelihood")
    if not scored:
        return Section(
            "likelihood", "Likelihood", ("No experiment is shown.", *withheld(content, "likelihood"))
        )
    unknown = "; ".join(
        f"{name} {percent(find(one, 'unknown_share'), digits=2).text}" for name, one in scored.items()
    )
    note = f"Codes outside the vocabulary are scored by no one; their share of the test codes: {unknown}."
    tables = (_yardsticks, _distance, _features, _conditions)
    views = tuple(table(name, one) for name, one in scored.items() for table in tables)
    return Section(
        "likelihood",
        "Likelihood of held-out patients",
        (WHY_NOT_15, note, *withheld(content, "likelihood")),
        views,
    )


def gap_closed(likelihood: Any) -> Any:
    """Share of the NLL between demographic unigram (0) and optimum (1) that the model gains."""
    return find(likelihood, "gap_closed", "prompt", "value")


def _yardsticks(name: str, likelihood: Mapping[str, Any]) -> Table:
    """The generation condition between baselines and optimum, codes only, best last."""
    baselines = [(title, ("baselines", key, "codes")) for key, title in BASELINES.items()]
    model = ("model, prompt condition", ("conditions", "prompt", "codes"))
    optimum = ("optimum of the simulated process", ("optimum", "prompt", "codes"))
    rows = tuple(_yardstick(likelihood, title, keys) for title, keys in (*baselines, model, optimum))
    caption = (
        f"{name}: codes of the test split. Lower is better; a useful model lies below every baseline"
        " that sees what it sees, and no honest one lies below the optimum."
    )
    return Table(caption, ("predictor", "NLL per code (nats)", "95 % interval", "perplexity"), rows)


def _yardstick(likelihood: Mapping[str, Any], title: str, keys: tuple[str, ...]) -> tuple[Cell, ...]:
    scored = find(likelihood, *keys)
    why = reason(likelihood, *keys)
    return (
        words(title),
        decimal(find(scored, "nll"), why),
        interval(find(scored, "interval")),
        perplexity(find(scored, "perplexity"), why),
    )


def _distance(name: str, likelihood: Mapping[str, Any]) -> Table:
    leak, why = likelihood["leak"], reason(likelihood, "leak")
    deviations = decimal(find(leak, "standard_errors"), why, digits=1)
    rows = (
        *(_gap(likelihood, keys, of) for keys, of in GAPS.items()),
        (words("NLL above the optimum, nats per patient"), decimal(find(leak, "mean"), why, digits=2)),
        (words("… in standard errors"), deviations),
        (words("leak alarm"), replace(verdict(_quiet(leak), why, yes="quiet", no="RAISED"), numeric=True)),
    )
    caption = (
        f"{name}: how far from what is possible. The share of the gap between the unigram by sex and age"
        " (0) and the optimum (1) is comparable between cohorts; that of codes means little without that"
        " of every token, since a model that ends visits too late has its codes cheaper. The alarm is"
        " raised when the model is more than 3 standard errors better than the optimum, which only a look"
        " at the answer explains."
    )
    return Table(caption, ("", f"value {INTERVAL}"), rows)


def _gap(likelihood: Mapping[str, Any], keys: tuple[str, str], of: str) -> tuple[Cell, Cell]:
    closed, bounds = (find(likelihood, *keys, key) for key in ("value", "interval"))
    title = words(f"share of the gap closed, {of}")
    return (title, with_percents(closed, bounds, reason(likelihood, *keys)))


def _quiet(leak: Any) -> bool | None:
    alarm = find(leak, "alarm")
    return None if alarm is None else not alarm


def _features(name: str, likelihood: Mapping[str, Any]) -> Table:
    columns = ("swap", "gain", "available")
    rows = tuple(
        (
            words(title),
            *(with_interval(*_heeded(likelihood, key, column)) for column in columns),
            with_percents(*_heeded(likelihood, key, "captured")),
        )
        for key, title in FEATURES
    )
    caption = (
        f"{name}: does the model heed its prompts? Rise of the NLL when a patient is scored with another"
        " one's feature: 0 if the model ignores it. Then what knowing the feature gains the model over"
        " not knowing it, what it is worth under the true process, and the share captured; below 0 where"
        " the feature misleads. Nats per patient."
    )
    heads = ("rise by a swap", "gained by the model", "available", "captured")
    return Table(caption, ("feature", *(f"{head} {INTERVAL}" for head in heads)), rows)


def _heeded(likelihood: Mapping[str, Any], feature: str, column: str) -> tuple[Any, Any, str]:
    keys = ("conditioning", feature, column)
    value, bounds = (find(likelihood, *keys, key) for key in ("value", "interval"))
    return value, bounds, reason(likelihood, *keys)


def _conditions(name: str, likelihood: Mapping[str, Any]) -> Table:
    rows = tuple(_condition(likelihood, condition, kind) for condition, kind in _present(likelihood))
    caption = (
        f"{name}: every condition and token class. Structure tokens are <v>, <\\v> and END; they are easy"
        " and dilute a perplexity over all tokens. The copy condition is never trained: near 1 there"
        " would mean that the model copies its input."
    )
    head = ("condition", "tokens", "perplexity", "NLL (nats)", "accuracy", "top-10 accuracy", "tokens scored")
    return Table(caption, head, rows)


def _present(likelihood: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    return [
        (condition, kind)
        for condition in CONDITIONS
        if find(likelihood, "conditions", condition)
        for kind in CLASSES
    ]


def _condition(likelihood: Mapping[str, Any], condition: str, kind: str) -> tuple[Cell, ...]:
    keys = ("conditions", condition, kind)
    scored, why = find(likelihood, *keys), reason(likelihood, *keys)
    return (
        words(TITLES[condition] if kind == CLASSES[0] else ""),
        words(kind),
        perplexity(find(scored, "perplexity"), why),
        decimal(find(scored, "nll"), why),
        percent(find(scored, "accuracy"), why),
        percent(find(scored, "top10_accuracy"), why),
        count(find(scored, "tokens"), why),
    )
