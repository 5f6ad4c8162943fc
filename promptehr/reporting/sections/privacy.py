"""Attacks on the synthetic patients, the gate, and the planted controls that prove the attacks."""

from collections.abc import Mapping
from typing import Any

from promptehr.reporting.cells import (
    Cell,
    count,
    decimal,
    percent,
    verdict,
    with_interval,
    with_percents,
    words,
)
from promptehr.reporting.reading import find, having, reason, withheld
from promptehr.reporting.views import INTERVAL, Section, Table

WHAT = (
    "Three sets are compared: synthetic patients, the training patients their generator saw, and held-out"
    " patients (validation and test) that it did not see. What an attack finds about held-out patients it"
    " finds by chance, so only the excess counts. Demographics are not compared; distances are Jaccard"
    " distances of the sets of codes."
)
PUBLISHERS = {
    "0": ("honest: copies nobody", "at most 1 in 10"),
    "0.01": ("copies 1 % of the training records", "power, no bound"),
    "0.02": ("copies 2 %", "power, no bound"),
    "0.05": ("copies 5 %", "at least 9 in 10"),
    "1": ("memoriser: copies all", "every one"),
}


def section(content: Mapping[str, Any]) -> Section:
    """The gate of every experiment, the planted controls, and distances as context."""
    judged = having(content, "privacy")
    if not judged:
        return Section("privacy", "Privacy", ("No experiment is shown.", *withheld(content, "privacy")))
    rule = find(next(iter(judged.values())), "gate", "rule")
    paragraphs = (WHAT, f"The gate. {rule}", *withheld(content, "privacy"))
    views = (_gates(judged), _controls(judged), _distances(judged), _attributes(judged))
    return Section("privacy", "Privacy: do they give away real patients?", paragraphs, views)


def passed(privacy: Any) -> bool | None:
    """Whether the gate is passed; None where it could not be judged."""
    found = find(privacy, "gate", "passed")
    return found if isinstance(found, bool) else None


def _gates(judged: Mapping[str, Any]) -> Table:
    caption = (
        "The gate and what it is made from. Good: an excess of exact copies whose interval holds 0, a true"
        " positive rate near the 1 % that guessing gives, an AUC near 0.5. Copies count records with codes"
        " enough to identify anyone."
    )
    head = (
        "experiment",
        "gate",
        "exact copies, synthetic",
        "exact copies, held-out",
        f"excess {INTERVAL}",
        f"TPR at 1 % FPR {INTERVAL}",
        "p",
        f"AUC {INTERVAL}",
    )
    return Table(caption, head, tuple((words(name), *_gate(one)) for name, one in judged.items()))


def _gate(privacy: Mapping[str, Any]) -> tuple[Cell, ...]:
    copies, attack = privacy["copies"], privacy["membership"]
    unattacked, uncopied = reason(attack), reason(copies)
    return (
        verdict(
            passed(privacy), reason(privacy, "gate"), no="FAILED: " + " and ".join(privacy["gate"]["alarms"])
        ),
        percent(find(copies, "synthetic", "share"), reason(copies, "synthetic"), digits=2),
        percent(find(copies, "held_out", "share"), reason(copies, "held_out"), digits=2),
        with_percents(find(copies, "excess"), find(copies, "interval"), uncopied),
        with_percents(find(attack, "tpr_at_1_percent_fpr"), find(attack, "tpr_interval"), unattacked),
        decimal(find(attack, "p_value"), unattacked),
        with_interval(find(attack, "auc"), find(attack, "auc_interval"), unattacked),
    )


def _controls(judged: Mapping[str, Any]) -> Table:
    first = next(iter(judged.values()))
    rows = tuple(_control(first, share, *text) for share, text in PUBLISHERS.items())
    caption = (
        "Planted controls: how many publishers whose conduct is known raise the alarm. A detector that"
        " does not flag its memoriser proves nothing, and one that flags the honest accuses everyone."
    )
    return Table(caption, ("publisher", "flagged", "by copies", "by membership", "needed"), rows)


def _control(privacy: Mapping[str, Any], share: str, who: str, needed: str) -> tuple[Cell, ...]:
    keys = ("planted", "controls", share)
    found, why = find(privacy, *keys), reason(privacy, *keys)
    counts = (find(found, key) for key in ("flagged", "by_copies", "by_membership"))
    repeats = find(found, "repeats")
    cells = (Cell(f"{flagged} of {repeats}") if found else count(None, why) for flagged in counts)
    return (words(who), *cells, words(needed))


def _distances(judged: Mapping[str, Any]) -> Table:
    caption = (
        "Context, not part of the gate. Median distance to the nearest neighbour, 0 for the same set of"
        " codes: good is alike for training and held-out patients. Nearer to training: share of synthetic"
        " patients, 0.5 if nothing leaks. Adversarial accuracy: 0.5 if synthetic and real cannot be told"
        " apart, lower if one copies the other; privacy loss is held-out minus training, 0 if nothing"
        " leaks."
    )
    head = (
        "experiment",
        "median to training",
        "median to held-out",
        f"nearer to training {INTERVAL}",
        "adversarial accuracy, training",
        "adversarial accuracy, held-out",
        f"privacy loss {INTERVAL}",
    )
    return Table(caption, head, tuple((words(name), *_distance(one)) for name, one in judged.items()))


def _distance(privacy: Mapping[str, Any]) -> tuple[Cell, ...]:
    nearer, told = find(privacy, "distances", "closer_to_train"), privacy["adversarial_accuracy"]
    loss, why = find(told, "privacy_loss"), reason(told)
    return (
        *(
            decimal(find(privacy, "distances", side, "quantiles", "50"), reason(privacy, "distances"))
            for side in ("synthetic_to_train", "synthetic_to_held_out")
        ),
        with_interval(find(nearer, "value"), find(nearer, "interval"), reason(privacy, "distances")),
        decimal(find(told, "train", "value"), why),
        decimal(find(told, "held_out", "value"), why),
        with_interval(find(loss, "value"), find(loss, "interval"), why),
    )


def _attributes(judged: Mapping[str, Any]) -> Table:
    caption = (
        "Context, not part of the gate. Attribute inference: an attacker who knows a training patient's"
        " frequent codes guesses the rare ones from the nearest published patient. F1 of the guesses when"
        " synthetic patients are published, and when as many real held-out ones are: good is an excess"
        " whose interval holds 0 or lies below it."
    )
    head = (
        "experiment",
        "attacked",
        "published",
        "F1, synthetic",
        "F1, held-out",
        f"excess {INTERVAL}",
    )
    return Table(caption, head, tuple((words(name), *_attribute(one)) for name, one in judged.items()))


def _attribute(privacy: Mapping[str, Any]) -> tuple[Cell, ...]:
    found, why = privacy["attributes"], reason(privacy, "attributes")
    return (
        *(count(find(found, name), why) for name in ("attacked", "published")),
        *(decimal(find(found, name), why) for name in ("synthetic", "held_out")),
        with_interval(find(found, "excess"), find(found, "interval"), why),
    )
