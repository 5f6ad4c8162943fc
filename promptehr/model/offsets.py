"""Where the logits start: what counting codes by sex, age band and ethnicity knows already.

Turns a training split into the log-share of every token and, for each group of patients, the
factor by which the group's share of a code differs from everybody's. A few thousand patients
teach a network too slowly that men have no deliveries; counted, it is plain, once codes of one
clinical group share their evidence: no man has any of two hundred codes of pregnancy.

A factor r of a group and code is what empirical Bayes makes of the patients n who have both:

    n ~ Poisson(r e), e expected if the group were like everybody, r from a prior of its own
    for each group, the most likely one on a grid, found by EM over all codes

first for the clinical groups, then for the codes within theirs; the factor is the product of
both posterior means. A code of one patient hardly moves, so nothing is learned by heart.

Source: DuMouchel, Bayesian data mining in large frequency tables, The American Statistician 53(3),
1999, with a discrete prior (Kiefer and Wolfowitz 1956; Laird 1978) in place of two gammas.

Shapes: V vocabulary, K groups of patients, C clinical groups or codes.
"""

from collections.abc import Iterator, Sequence
from itertools import accumulate

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from promptehr import tokens
from promptehr.model.batches import TokenStore

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

# Factors from 1/400 to 55, each 18 % above the one before.
GRID = np.exp(np.linspace(-6.0, 4.0, 61))
ROUNDS = 200


class Offsets(nn.Module):
    """Log-factors of the tokens for each patient's age band, sex and ethnicity; counted, not learned.

    Buffers, saved with the weights: `table` [age bands + sexes + ethnicities, V] and `edges`, the
    first ages of all bands but the youngest, in standard units, ascending.
    """

    table: Tensor
    edges: Tensor

    def __init__(self, *, age_edges: Sequence[float], categories: Sequence[int], vocabulary_size: int):
        super().__init__()
        self.starts = list(accumulate([0, len(age_edges) + 1, *categories]))
        self.register_buffer("table", torch.zeros(self.starts[-1], vocabulary_size))
        self.register_buffer("edges", torch.tensor(age_edges))

    def forward(self, x_num: Tensor, x_cat: Tensor) -> Tensor:
        """[B, 1] age in standard units and [B, categories] ids to [B, 1, V]."""
        found = self.table[age_band(x_num, self.edges)]
        for place, start in enumerate(self.starts[1:-1]):
            found = found + self.table[start + x_cat[:, place]]
        return found[:, None]


def age_edges(vocabulary: tokens.Vocabulary) -> list[float]:
    """First age of each band but the youngest, in standard units, a hair lower: ages are rounded."""
    found: list[float] = vocabulary.age_z(np.asarray(tokens.AGE_BANDS[1:]) - 1e-3).tolist()
    return found


def age_band(x_num: Tensor, edges: Tensor) -> Tensor:
    """[B] band of each [B, 1] age."""
    return torch.bucketize(x_num[:, 0].contiguous(), edges, right=True)


# --- counting ----------------------------------------------------------------------------------


def counted(store: TokenStore, edges: Sequence[float], groups: Ints) -> Tensor:
    """[age bands + sexes + ethnicities, V] the table of `Offsets`; CPU.

    Args:
        store: The training split.
        edges: As `Offsets` has them.
        groups: [codes] clinical group of each code, in the order of the ids, from 0.
    """
    codes = codes_of(store)
    in_groups = np.unique(np.stack([codes[0], groups[codes[1]]]), axis=1)
    table = torch.zeros(0, store.vocabulary_size)
    for kind, kinds in kinds_of(store, edges):
        of_groups = together(kind, in_groups, (kinds, int(groups.max()) + 1))
        of_codes = together(kind, codes, (kinds, len(groups)))
        broad = factors(of_groups, expected(of_groups))[:, groups]
        found = torch.zeros(kinds, store.vocabulary_size)
        found[:, tokens.FIRST_CODE : store.mask] = torch.from_numpy(
            np.log(broad * factors(of_codes, expected(of_codes) * broad))
        )
        table = torch.cat([table, found])
    return table


def codes_of(store: TokenStore) -> Ints:
    """[2, pairs] each patient with each of its codes, once: place in the store, code from 0."""
    ids = store.tokens.cpu().numpy()
    patients = np.repeat(np.arange(len(store)), store.lengths)
    is_code = (ids >= tokens.FIRST_CODE) & (ids < store.mask)
    return np.unique(np.stack([patients[is_code], ids[is_code] - tokens.FIRST_CODE]), axis=1)


def kinds_of(store: TokenStore, edges: Sequence[float]) -> Iterator[tuple[Ints, int]]:
    """The age band, sex and ethnicity of each patient, and how many there are of each."""
    yield age_band(store.x_num.cpu(), torch.tensor(edges)).numpy(), len(edges) + 1
    for column, names in zip(store.x_cat.cpu().numpy().T, (tokens.GENDERS, tokens.ETHNICITIES), strict=True):
        yield column, len(names)


def together(kind: Ints, pairs: Ints, shape: tuple[int, int]) -> Floats:
    """Patients of each kind that have each code or group."""
    flat = kind[pairs[0]] * shape[1] + pairs[1]
    return np.bincount(flat, minlength=shape[0] * shape[1]).reshape(shape).astype(np.float64)


def expected(counts: Floats) -> Floats:
    """[K, C] counts if every kind of patient had everybody's shares."""
    found: Floats = counts.sum(1, keepdims=True) * counts.sum(0) / counts.sum()
    return found


def factors(counts: Floats, expected: Floats) -> Floats:
    """[K, C] posterior means of the factors by which counts differ from what is expected.

    Each row has a prior of its own. A row of nobody has factors of 1.
    """
    found = np.ones_like(counts)
    for row in np.flatnonzero(expected.sum(1)):
        log_p = counts[row][:, None] * np.log(GRID) - expected[row][:, None] * GRID
        p = np.exp(log_p - log_p.max(1, keepdims=True))  # [C, grid]
        prior = np.full(len(GRID), 1 / len(GRID))
        for _ in range(ROUNDS):
            posterior = p * prior
            prior = (posterior / posterior.sum(1, keepdims=True)).mean(0)
        posterior = p * prior
        found[row] = posterior @ GRID / posterior.sum(1)
    return found
