"""Jaccard distances between sets of codes: the nearest of many, in blocks that bound memory.

Works on patient x code matrices of 0 and 1; knows no cohort.
"""

import numpy as np

from promptehr.metrics.incidence import Floats, Matrix

BLOCK = 512  # query patients at once; a block holds at most 512 x references numbers


def nearest(queries: Matrix, references: Matrix, *, itself: bool = False) -> Floats:
    """[Q] distance of each query to its nearest reference: 1 - |both| / |either| of their codes.

    0 for equal sets, 1 where no reference shares a code. Every set has at least one code.

    Args:
        queries: [Q, K] CSR of 0 and 1.
        references: [N, K] CSR of 0 and 1.
        itself: The two are the same patients, and a patient is not its own neighbour: left out
            by row, so that a second patient with the same codes counts.
    """
    if not references.shape[0]:
        return np.ones(queries.shape[0])
    transposed = references.T.tocsr()
    query_sizes, sizes = (np.asarray(side.sum(axis=1)).ravel() for side in (queries, references))
    best = np.zeros(queries.shape[0])
    for start in range(0, queries.shape[0], BLOCK):
        shared = (queries[start : start + BLOCK] @ transposed).tocsr()
        rows = np.repeat(np.arange(shared.shape[0]), np.diff(shared.indptr))
        similarity = shared.data / (query_sizes[start + rows] + sizes[shared.indices] - shared.data)
        if itself:
            similarity[shared.indices == start + rows] = 0.0
        filled = np.flatnonzero(np.diff(shared.indptr))
        if len(filled):
            best[start + filled] = np.maximum.reduceat(similarity, shared.indptr[filled])
    return 1.0 - best
