"""A trained model and patients to the log-probability of each of their tokens, per condition.

The model's probabilities are renormalised to the alphabet that baselines and optimum share: <v>,
<\\v>, END and the codes. What training keeps it from writing has no share in them anyway. Works
on token ids.

Shapes: N patients of a batch, L decoder tokens, V vocabulary, T tokens of the cohort.
"""

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from promptehr.metrics.likelihood import Scores, later_visits
from promptehr.model import objective
from promptehr.model.batches import TokenStore, derived_seed
from promptehr.model.evaluation import by_length
from promptehr.model.objective import Batch
from promptehr.model.promptbart import PromptBartForConditionalGeneration
from promptehr.settings import Corruption
from promptehr.tokens import VISIT, Cohort

Condition = Literal["prompt", "history", "denoise", "copy"]
CONDITIONS: tuple[Condition, ...] = ("prompt", "history", "denoise", "copy")


@torch.inference_mode()
def score(
    model: PromptBartForConditionalGeneration,
    cohort: Cohort,
    store: TokenStore,
    condition: Condition,
    *,
    batch_tokens: int,
    seed: int,
) -> Scores:
    """Scores of all tokens that the decoder writes under a condition.

    `prompt` and the two that show the record score every token after BOS; `history` gives the first
    visit of patients with two or more and scores the rest.

    Args:
        model: In evaluation mode.
        cohort: The patients.
        store: The same, on the model's device.
        condition: What the encoder sees.
        batch_tokens: Padded decoder tokens of a batch.
        seed: Seed of the noise of `denoise`.
    """
    shape = len(cohort.tokens)
    log_prob, scored = np.zeros(shape), np.zeros(shape, dtype=bool)
    top1, top10 = np.zeros(shape, dtype=bool), np.zeros(shape, dtype=bool)
    noise = torch.Generator(store.device).manual_seed(derived_seed(seed, "denoise"))
    for rows, batch in _batches(store, condition, batch_tokens, noise):
        values = _token_scores(model, batch, store)
        ends = cohort.offsets[rows + 1]
        length = (batch.decoder_input_ids != 0).sum(1).cpu().numpy()  # BOS stands for the first label
        place = np.arange(batch.labels.shape[1])
        inside = place < length[:, None]
        target = (ends - length)[:, None] + place
        known = (batch.labels != objective.NOT_SCORED).cpu().numpy()
        log_prob[target[inside]], top1[target[inside]], top10[target[inside]] = (v[inside] for v in values)
        scored[target[inside]] = known[inside]
    if condition == "history":
        assert not (scored & ~later_visits(cohort)).any()
    return Scores(log_prob, scored, top1, top10)


def _batches(
    store: TokenStore, condition: Condition, batch_tokens: int, noise: torch.Generator
) -> Iterator[tuple[npt.NDArray[Any], Batch]]:
    eligible = np.flatnonzero(store.visits >= (2 if condition == "history" else 1))
    for chosen in by_length(store.lengths[eligible], batch_tokens):
        rows = torch.from_numpy(eligible[chosen]).to(store.device)
        if condition == "prompt":
            batch = objective.prompt(store, rows)
        elif condition == "history":
            batch = objective.history(store, rows, torch.ones_like(rows))
        elif condition == "denoise":
            batch = objective.denoise(store, rows, Corruption(), noise)
        else:
            batch = objective.copy(store, rows)
        yield eligible[chosen], batch


def _token_scores(
    model: PromptBartForConditionalGeneration, batch: Batch, store: TokenStore
) -> tuple[npt.NDArray[Any], ...]:
    """Log-probability over the alphabet, likeliest or not, among ten or not; each [N, L]."""
    logits = model(**batch.inputs, use_cache=False).logits.float()[..., VISIT : store.mask]
    labels = (batch.labels - VISIT).clamp(min=0)
    answer = logits.gather(2, labels[..., None])[..., 0]
    log_prob = answer - logits.logsumexp(2)
    better = (logits > answer[..., None]).sum(2)
    return tuple(_host(values) for values in (log_prob.double(), better < 1, better < 10))


def _host(values: Tensor) -> npt.NDArray[Any]:
    return values.cpu().numpy()
