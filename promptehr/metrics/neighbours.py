"""Jaccard distances between sets of codes: the nearest of many, in blocks that bound memory.

Works on patient x code matrices of 0 and 1; knows no cohort.
"""

from collections.abc import Iterator

import numpy as np

from promptehr import progress
from promptehr.metrics.incidence import Floats, Ints, Matrix

BLOCK = 512  # query patients at once, at the most
PAIRS = 10_000_000  # of query and reference that are held at once, at the most, or one query


def nearest(queries: Matrix, references: Matrix, *, own: Ints | None = None) -> Floats:
    """[Q] distance of each query to its nearest reference: 1 - |both| / |either| of their codes.

    0 for equal sets, 1 where no reference shares a code. Every set has at least one code.

    Args:
        queries: [Q, K] CSR of 0 and 1.
        references: [N, K] CSR of 0 and 1.
        own: [Q] row of each query among the references, if the queries are references themselves: a
            patient is not its own neighbour, but a second one with the same codes is.
    """
    best = np.zeros(queries.shape[0])
    for rows, _, similarity in _similarities(queries, references, own):
        filled = np.flatnonzero(np.diff(rows, prepend=-1))
        best[rows[filled]] = np.maximum.reduceat(similarity, filled)
    return 1.0 - best


def nearest_row(queries: Matrix, references: Matrix) -> Ints:
    """[Q] the reference nearest to each query, the first of equally near ones; -1 if none shares a code."""
    found = np.full(queries.shape[0], -1)
    for rows, columns, similarity in _similarities(queries, references):
        filled = np.flatnonzero(np.diff(rows, prepend=-1))
        best = np.repeat(np.maximum.reduceat(similarity, filled), np.diff(filled, append=len(rows)))
        nearest_ones = np.where(similarity == best, columns, references.shape[0])
        found[rows[filled]] = np.minimum.reduceat(nearest_ones, filled)
    return found


def _similarities(
    queries: Matrix, references: Matrix, own: Ints | None = None
) -> Iterator[tuple[Ints, Ints, Floats]]:
    """Query, reference and |both| / |either| of all that share a code, by query, in blocks."""
    transposed = references.T.tocsr()
    query_sizes, sizes = (np.asarray(side.sum(axis=1)).ravel() for side in (queries, references))
    block = max(1, min(BLOCK, PAIRS // max(1, references.shape[0])))
    starts = range(0, queries.shape[0], block)
    for start in progress.steps(starts, total=len(starts), what=f"blocks of {block} patients compared"):
        shared = (queries[start : start + block] @ transposed).tocsr()
        rows = start + np.repeat(np.arange(shared.shape[0]), np.diff(shared.indptr))
        similarity = shared.data / (query_sizes[rows] + sizes[shared.indices] - shared.data)
        if own is not None:
            similarity[shared.indices == own[rows]] = 0.0
        if len(rows):
            yield rows, shared.indices, similarity
