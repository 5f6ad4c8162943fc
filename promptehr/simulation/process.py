"""The random process behind simulated patients: its parameters, and how they are stored.

A factorial hidden Markov model over visits with Plackett-Luce emission. Demographics are drawn
first; given them a state of 7 chronic conditions (128 states); per visit one of 11 acute reasons.
Codes come one after the other from a mixture, each at most once in a visit, so the order of
drawing is the order of SEQ_NUM and every token has a well-defined probability.

    P(code) = theta(code) / (1 - theta of the codes already in the visit)
    theta   = repeat * previous visit + (1 - repeat) * sum of weight * theme

Shapes: C codes, K themes, G age bands, S chronic states (128), R reasons (11).
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from promptehr import icd9
from promptehr.simulation import recipe, themes
from promptehr.simulation.themes import Theme
from promptehr.tokens import ETHNICITIES, Ints

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Process:
    """All parameters of the process; two equal ones give equal probabilities.

    Attributes:
        codes: [C] codes that can occur.
        bands: [G] first year of each age band.
        band: [G] share of patients.
        female: [G] probability of F.
        ethnicity: [6] shares, in the order of tokens.ETHNICITIES.
        chronic_band: [7, G] logit of each condition.
        chronic_female: [7] added for F.
        chronic_ethnicity: [7, 6] added for the ethnicity.
        chronic_earlier: [7, 7] added for each earlier condition.
        switch_on: [7] probability that an absent condition appears between two visits.
        reason_band: [G, R] logit of each reason.
        reason_chronic: [7, R] added for each condition.
        reason_female: [R] added for F.
        chronic_theme: [7, C] code distribution of each condition.
        reason_theme: [R, C] of each reason.
        general_theme: [G, C] of nothing in particular, by age band.
        demographic_theme: [D, C] of sex and ethnicity.
        demographic_share: [G, 2, 6, D] their shares of a code's mixture; sex 0 M, 1 F.
        first_mixture: [3] weights of reason, conditions, general for a visit's first code.
        later_mixture: [3] the same for later codes.
        repeat: [2] share of the first and of later codes taken from the previous visit.
        stop: [G, 39] probability that a visit ends after 1, 2, ... codes; 1 at the last.
        revisit_band: [G] logit that another visit follows.
        revisit_chronic: [7] added for each condition.
        revisit_visit: Added for each earlier visit, up to six.
        most_visits: After this many none follows.
    """

    codes: tuple[str, ...]
    bands: Array
    band: Array
    female: Array
    ethnicity: Array
    chronic_band: Array
    chronic_female: Array
    chronic_ethnicity: Array
    chronic_earlier: Array
    switch_on: Array
    reason_band: Array
    reason_chronic: Array
    reason_female: Array
    chronic_theme: Array
    reason_theme: Array
    general_theme: Array
    demographic_theme: Array
    demographic_share: Array
    first_mixture: Array
    later_mixture: Array
    repeat: Array
    stop: Array
    revisit_band: Array
    revisit_chronic: Array
    revisit_visit: float
    most_visits: int

    # --- derived tables ---

    @cached_property
    def states(self) -> Array:
        """[S, 7] conditions of each chronic state, as 0 and 1."""
        numbers = np.arange(2 ** len(self.switch_on))
        return ((numbers[:, None] >> np.arange(len(self.switch_on))) & 1).astype(np.float64)

    @cached_property
    def start(self) -> Array:
        """[G, 2, 6, S] probability of each chronic state at the first visit."""
        logits = (
            self.chronic_band.T[:, None, None, None, :]
            + self.chronic_female * np.arange(2)[None, :, None, None, None]
            + self.chronic_ethnicity.T[None, None, :, None, :]
            + (self.states @ self.chronic_earlier.T)[None, None, None, :, :]
        )
        start: Array = np.where(self.states == 1, sigmoid(logits), sigmoid(-logits)).prod(-1)
        return start

    @cached_property
    def change(self) -> Array:
        """[S, S] probability of the next visit's chronic state (column) given this one's (row)."""
        now, then = self.states[:, None, :], self.states[None, :, :]
        appears = np.where(then == 1, self.switch_on, 1 - self.switch_on)
        change: Array = np.where(now == 1, then, appears).prod(-1)
        return change

    @cached_property
    def reason(self) -> Array:
        """[G, 2, S, R] probability of each reason."""
        logits = (
            self.reason_band[:, None, None, :]
            + self.reason_female * np.arange(2)[None, :, None, None]
            + (self.states @ self.reason_chronic)[None, None, :, :]
        )
        odds = np.exp(logits - logits.max(-1, keepdims=True))
        reason: Array = odds / odds.sum(-1, keepdims=True)
        return reason

    @cached_property
    def revisit(self) -> Array:
        """[G, visits, S] probability that another visit follows the first, second, ... one."""
        earlier = self.revisit_visit * np.minimum(np.arange(self.most_visits), 6)
        logits = (
            self.revisit_band[:, None, None]
            + earlier[None, :, None]
            + (self.states @ self.revisit_chronic)[None, None, :]
        )
        probability = sigmoid(logits)
        probability[:, -1] = 0.0
        return probability

    @cached_property
    def condition_weight(self) -> Array:
        """[S, 8] share of each condition's theme in the chronic part; the last is the general theme,
        which stands in where there is no condition."""
        active = self.states.sum(1, keepdims=True)
        return np.hstack([self.states / np.maximum(active, 1), active == 0])

    @cached_property
    def themes(self) -> Array:
        """[K, C] all code distributions: of conditions, reasons, age bands, sex and ethnicity."""
        return np.vstack([self.chronic_theme, self.reason_theme, self.general_theme, self.demographic_theme])

    def split(self, values: Array) -> tuple[Array, Array, Array, Array]:
        """Columns in the order of `themes`, [n, K], as conditions, reasons, age bands, demographic."""
        kinds = (self.chronic_theme, self.reason_theme, self.general_theme)
        conditions, reasons, bands, demographic = np.split(
            values, np.cumsum([len(kind) for kind in kinds]), axis=1
        )
        return conditions, reasons, bands, demographic

    @cached_property
    def inverse_themes(self) -> tuple[tuple[Ints, Array], ...]:
        """For each theme its codes that have weight, and their cumulative probability."""
        used = [np.flatnonzero(theme) for theme in self.themes]
        return tuple(
            (codes, theme[codes].cumsum() / theme[codes].sum())
            for codes, theme in zip(used, self.themes, strict=True)
        )

    def band_of(self, age: npt.NDArray[np.floating[Any]]) -> Ints:
        """Age band of ages in years.

        Simulated ages keep a week's distance from every edge but birth, so neither float32 nor the
        round trip over standard units moves a patient; a newborn just below 0 is a newborn.
        """
        return np.searchsorted(self.bands, np.maximum(age.astype(np.float64), 0.0), side="right") - 1

    # --- storage ---

    def to_document(self) -> dict[str, Any]:
        """Plain values that `from_document` reads; themes as the codes that have any weight."""
        return {field.name: _plain(getattr(self, field.name)) for field in fields(self)}

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "Process":
        """The process that `to_document` wrote, bit by bit."""
        codes = tuple(document["codes"])
        values = {name: _array(value, len(codes)) for name, value in document.items() if name != "codes"}
        return cls(codes=codes, **values)


def sigmoid(logits: Array) -> Array:
    return 1 / (1 + np.exp(-logits))


def default() -> Process:
    """The process of the simulated cohort."""
    codes, tails = tuple(sorted(icd9.listed())), _tails()
    bands = len(recipe.BANDS)
    newborn = _for_some(themes.PERINATAL_GENERAL, codes, tails)
    general = _distribution(themes.GENERAL, codes, tails[None], GENERAL_LAW, "general")
    reason = {name: _for_anybody(theme, codes, tails) for name, theme in themes.REASONS.items()}
    reason[themes.NEWBORN] = _for_some(themes.REASONS[themes.NEWBORN], codes, tails)
    return Process(
        codes=codes,
        bands=np.array(recipe.BANDS, dtype=np.float64),
        band=np.array(recipe.BAND_SHARES) / sum(recipe.BAND_SHARES),
        female=np.array(recipe.FEMALE),
        ethnicity=np.array(recipe.ETHNICITY_SHARES) / sum(recipe.ETHNICITY_SHARES),
        chronic_band=np.array(recipe.CHRONIC_BY_BAND),
        chronic_female=np.array(recipe.CHRONIC_FEMALE),
        chronic_ethnicity=np.array(recipe.CHRONIC_ETHNICITY),
        chronic_earlier=np.array(recipe.CHRONIC_EARLIER),
        switch_on=np.array(recipe.SWITCH_ON),
        reason_band=np.array(recipe.REASON_BY_BAND),
        reason_chronic=np.array(recipe.REASON_BY_CHRONIC),
        reason_female=np.array(recipe.REASON_FEMALE),
        chronic_theme=np.stack([_for_anybody(theme, codes, tails) for theme in themes.CHRONIC.values()]),
        reason_theme=np.stack(list(reason.values())),
        general_theme=np.stack([newborn, *[general] * (bands - 1)]),
        demographic_theme=np.stack([_for_some(theme, codes, tails) for theme in themes.DEMOGRAPHIC.values()]),
        demographic_share=_demographic_share(),
        first_mixture=np.array(recipe.FIRST_MIXTURE),
        later_mixture=np.array(recipe.LATER_MIXTURE),
        repeat=np.array([recipe.REPEAT_FIRST, recipe.REPEAT_LATER]),
        stop=np.stack(
            [_hazard(recipe.NEWBORN_CODES_PER_VISIT), *[_hazard(recipe.CODES_PER_VISIT)] * (bands - 1)]
        ),
        revisit_band=np.array(recipe.REVISIT_BY_BAND),
        revisit_chronic=np.array(recipe.REVISIT_BY_CHRONIC),
        revisit_visit=recipe.REVISIT_BY_VISIT,
        most_visits=recipe.MOST_VISITS,
    )


# --- themes ------------------------------------------------------------------------------------

# Zipf-Mandelbrot laws, weight = (rank + offset)^-exponent, of a theme's tail and of the general one.
TAIL_LAW, GENERAL_LAW = (2.4, 22.0), (3.0, 370.0)
# Words in titles of codes of one sex or of newborns that stand outside their groups.
SEX_WORDS = (
    "pregnan",
    "female",
    " male",
    "newborn",
    "prostat",
    "uter",
    "vagin",
    "cervix",
    "ovar",
    "perinatal",
)


def _tails() -> Mapping[int | None, Sequence[str]]:
    """Codes of each CCS group, and under None all that anybody may have."""
    groups = icd9.groups()
    tails: dict[int | None, list[str]] = {None: []}
    for code in sorted(icd9.listed()):
        tails.setdefault(groups[code].ccs, []).append(code)
        if _is_for_anybody(code):
            tails[None].append(code)
    return tails


def _is_for_anybody(code: str) -> bool:
    """Whether neither the group nor the title of a code binds it to one sex or to newborns."""
    bound = icd9.groups()[code].ccs in themes.SEX_OR_PERINATAL_GROUPS
    in_range = "630" <= code[:3] <= "679" or "760" <= code[:3] <= "779"
    in_range = in_range or code[:3] in {"V22", "V23", "V24", "V27"}
    return not (bound or in_range or any(word in icd9.titles()[code].lower() for word in SEX_WORDS))


def _for_some(theme: Theme, codes: Sequence[str], tails: Mapping[int | None, Sequence[str]]) -> Array:
    """[C] the theme of newborns, a sex or an ethnicity: its tail is all codes of its groups."""
    tail = [code for group in theme.tail for code in tails[group]]
    return _distribution(theme, codes, tail, TAIL_LAW, "theme")


def _for_anybody(theme: Theme, codes: Sequence[str], tails: Mapping[int | None, Sequence[str]]) -> Array:
    """[C] a theme whose tail leaves out what belongs to one sex or to newborns."""
    tail = [code for group in theme.tail for code in tails[group] if _is_for_anybody(code)]
    return _distribution(theme, codes, tail, TAIL_LAW, "theme")


def _distribution(
    theme: Theme, codes: Sequence[str], tail: Iterable[str], law: tuple[float, float], salt: str
) -> Array:
    """[C] probabilities: the head as given, the rest by the law over the tail in a hashed order.

    The order differs from salt to salt, and is neither alphabetical nor random from run to run.
    """
    rest = sorted(
        (code for code in tail if code not in theme.head),
        key=lambda code: hashlib.blake2b(f"{salt}:{code}".encode()).digest(),
    )
    exponent, offset = law
    weight = (np.arange(len(rest)) + offset) ** -exponent
    shares = weight / weight.sum() * (1 - sum(theme.head.values()))
    known = {**theme.head, **dict(zip(rest, shares.tolist(), strict=True))}
    probability = np.array([known.get(code, 0.0) for code in codes])
    whole: Array = probability / probability.sum()
    return whole


def _demographic_share() -> Array:
    """[G, 2, 6, D] by the themes' order in the recipe."""
    share = np.zeros((len(recipe.BANDS), 2, len(ETHNICITIES), len(themes.DEMOGRAPHIC)))
    share[list(recipe.PREGNANCY_BANDS), 1, :, 0] = recipe.PREGNANCY_SHARE
    share[list(recipe.FEMALE_BANDS), 1, :, 1] = recipe.FEMALE_SHARE
    share[list(recipe.MALE_BANDS), 0, :, 2] = recipe.MALE_SHARE
    for theme, name in enumerate(("BLACK", "HISPANIC", "ASIAN"), start=3):
        share[1:, :, ETHNICITIES.index(name), theme] = recipe.ETHNICITY_SHARE[name]
    return share


def _hazard(shares: Sequence[float]) -> Array:
    """[39] probability of the end after each number of codes, given that it was reached."""
    padded = np.zeros(len(recipe.CODES_PER_VISIT))
    padded[: len(shares)] = shares
    reached = padded[::-1].cumsum()[::-1]
    hazard: Array = np.where(reached > 0, padded / np.maximum(reached, 1e-300), 1.0)
    hazard[-1] = 1.0
    return hazard


# --- storage -----------------------------------------------------------------------------------


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray) and value.ndim == 2 and value.shape[1] > 1000:
        rows = [np.flatnonzero(row) for row in value]
        return [
            {"code": used.tolist(), "weight": row[used].tolist()}
            for row, used in zip(value, rows, strict=True)
        ]
    return value.tolist() if isinstance(value, np.ndarray) else value


def _array(value: Any, codes: int) -> Any:
    if isinstance(value, list) and isinstance(value[0], dict):
        dense = np.zeros((len(value), codes))
        for row, entry in zip(dense, value, strict=True):
            row[entry["code"]] = entry["weight"]
        return dense
    return np.array(value, dtype=np.float64) if isinstance(value, list) else value
