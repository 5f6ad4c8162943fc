"""The verdict in plain words, and the experiments side by side."""

from collections.abc import Mapping
from typing import Any

from promptehr.reporting.cells import DASH, Cell, count, decimal, percent, perplexity, verdict, words
from promptehr.reporting.reading import experiments, find, having, reason
from promptehr.reporting.sections import likelihood, privacy, utility
from promptehr.reporting.views import Section, Table

SOURCES = {"simulate": "simulated patients", "mimic3": "MIMIC-III patients", "mimic4": "MIMIC-IV patients"}
METHODS = {
    "model": "trained model",
    "unigram": "unigram by sex and age band",
    "bigram": "bigram",
    "copy": "planted copier",
}


def section(content: Mapping[str, Any]) -> Section:
    """One line per experiment with the number that each evaluation is about."""
    rows = tuple(_row(name, one) for name, one in experiments(content).items())
    caption = (
        "Good: perplexity below the baselines with most of the gap to the"
        " optimum closed, R² at its ceiling, utility near the real-trained one, and a passed gate; the"
        " planted copier shows what a failed one looks like."
    )
    head = (
        "experiment",
        "generates by",
        "patients",
        "code perplexity, prompt",
        "gap closed",
        "prevalence R²",
        "its ceiling",
        "mean AUROC, trained on synthetic",
        "… on real",
        "privacy gate",
    )
    return Section("overview", "Experiments side by side", (), (Table(caption, head, rows),))


def subtitle(content: Mapping[str, Any]) -> str:
    """Where the patients come from and how many the model learned from."""
    source = SOURCES[content["source"]]
    vocabulary = content["vocabulary"]
    return (
        f"Learned from {count(vocabulary['patients']).text} {source} with"
        f" {count(vocabulary['codes']).text} diagnosis codes; generated, measured and reported by promptehr."
    )


def headline(content: Mapping[str, Any]) -> str | None:
    """The experiment the verdict is about: the first with a scored model, else the first."""
    return next(iter([*having(content, "likelihood"), *content["order"]]), None)


def verdict_text(content: Mapping[str, Any]) -> str:
    """One paragraph that says how good and how private the first trained experiment is."""
    name = headline(content)
    if name is None:
        return "No experiment was run."
    one = content["experiments"][name]
    sentences = (_likelihood(one), _fidelity(one), _utility(one), _privacy(one))
    return f"Experiment {name}. " + " ".join(sentences)


def _likelihood(one: Mapping[str, Any]) -> str:
    scored = one.get("likelihood")
    model = find(scored, "conditions", "prompt", "codes", "perplexity")
    if model is None:
        return "Held-out patients were not scored."
    baseline = find(scored, "baselines", "demographic_unigram", "codes", "perplexity")
    optimum = find(scored, "optimum", "prompt", "codes", "perplexity")
    closed = likelihood.gap_closed(scored)
    text = (
        f"Knowing only age, sex and ethnicity, the model predicts the codes of held-out patients with a"
        f" perplexity of {perplexity(model).text}"
    )
    if baseline is not None:
        better = "better" if model < baseline else "NOT better"
        text += f", {better} than code frequencies by sex and age ({perplexity(baseline).text})"
    if optimum is not None and closed is not None:
        text += (
            f"; the best that is possible is {perplexity(optimum).text}, so {percent(closed, digits=0).text}"
            " of the gap is closed"
        )
    if find(scored, "leak", "alarm"):
        text += ". But the leak alarm is RAISED: that is better than possible, so it has seen the answer"
    return text + "."


def _fidelity(one: Mapping[str, Any]) -> str:
    found = find(one.get("fidelity"), "prevalence", "r2")
    if found is None:
        return "Code prevalence was not compared."
    ceiling = find(one["fidelity"], "prevalence", "ceiling", "r2")
    beside = (
        "" if ceiling is None else f", where real patients of the same number reach {decimal(ceiling).text}"
    )
    return (
        f"Generated patients have the real prevalence of codes with an R² of {decimal(found).text}{beside}."
    )


def _utility(one: Mapping[str, Any]) -> str:
    synthetic, real = utility.mean(one.get("utility"), "synthetic"), utility.mean(one.get("utility"), "real")
    if synthetic is None or real is None:
        return "Their use for training classifiers could not be judged."
    return (
        f"Classifiers of chronic conditions trained on them and tested on real patients reach a mean AUROC of"
        f" {decimal(synthetic).text}, against {decimal(real).text} when trained on real patients."
    )


def _privacy(one: Mapping[str, Any]) -> str:
    passed = privacy.passed(one.get("privacy"))
    if passed is None:
        return f"Privacy could not be judged: {reason(one.get('privacy'), 'gate')}."
    if passed:
        return "The privacy gate is passed: no more copies or tell-tale neighbours than chance gives."
    alarms = " and ".join(find(one["privacy"], "gate", "alarms"))
    return (
        f"The privacy gate FAILED by {alarms}: these patients give away who was in the training set and"
        " must not be shared."
    )


def _row(name: str, one: Mapping[str, Any]) -> tuple[Cell, ...]:
    scored, fidelity = one.get("likelihood"), one.get("fidelity")
    r2, ceiling = ("prevalence", "r2"), ("prevalence", "ceiling", "r2")
    untrained = "only a trained model has a likelihood of its own" if scored is None else None
    unscored = untrained or reason(scored, "conditions", "prompt", "codes")
    unbounded = untrained or reason(scored, "gap_closed", "prompt")
    return (
        words(name),
        words(METHODS.get(one["method"], DASH)),
        count(find(one.get("generate"), "patients"), reason(one.get("generate"), "patients")),
        perplexity(find(scored, "conditions", "prompt", "codes", "perplexity"), unscored),
        percent(likelihood.gap_closed(scored), unbounded, digits=0),
        decimal(find(fidelity, *r2), reason(fidelity, *r2)),
        decimal(find(fidelity, *ceiling), reason(fidelity, *ceiling)),
        decimal(utility.mean(one.get("utility"), "synthetic"), reason(one.get("utility"))),
        decimal(utility.mean(one.get("utility"), "real"), reason(one.get("utility"))),
        verdict(privacy.passed(one.get("privacy")), reason(one.get("privacy"), "gate")),
    )
