"""A trained model and patients to the log-probability of each of their tokens, per condition.

The alphabet is that of baselines and optimum: <v>, <\\v>, END and the codes. Ranked scores are
renormalised to it; what training keeps the model from writing has no share in either. Works on
token ids.

Shapes: N patients of a batch, L decoder tokens, V vocabulary, T tokens of the cohort.
"""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from promptehr import progress
from promptehr.metrics.likelihood import Scores, later_visits
from promptehr.model import objective
from promptehr.model.batches import Shown, TokenStore, derived_seed
from promptehr.model.evaluation import in_batches
from promptehr.model.objective import Batch
from promptehr.model.promptbart import PromptBartForConditionalGeneration
from promptehr.settings import Corruption
from promptehr.tokens import VISIT, Cohort

CONDITIONS: tuple[Shown, ...] = ("prompt", "history", "denoise", "copy")


@torch.inference_mode()
def score(
    model: PromptBartForConditionalGeneration,
    cohort: Cohort,
    store: TokenStore,
    condition: Shown,
    *,
    seed: int,
    ranked: bool = True,
    log_every_s: float = math.inf,
) -> Scores:
    """Scores of all tokens that the decoder writes under a condition.

    `prompt` and the two that show the record score every token after BOS; `history` gives the first
    visit of patients with two or more and scores the rest.

    Args:
        model: In evaluation mode.
        cohort: The patients.
        store: The same, on the model's device.
        condition: What the encoder sees.
        seed: Seed of the noise of `denoise`.
        ranked: Whether to say as well if a token was the likeliest, or among ten: a third more work.
        log_every_s: Seconds between lines of the log.
    """
    shape = len(cohort.tokens)
    scored = np.zeros(shape, dtype=bool)
    found = (np.zeros(shape), np.zeros(shape, dtype=bool), np.zeros(shape, dtype=bool))
    noise = torch.Generator(store.device).manual_seed(derived_seed(seed, "denoise"))
    batches, what = in_batches(store, condition), f"batches scored, {condition}"
    for rows in progress.steps(batches, total=len(batches), what=what, every_s=log_every_s):
        batch = objective.held_out(store, rows, condition, Corruption(), noise)
        ends = cohort.offsets[rows.cpu().numpy() + 1]
        length = (batch.decoder_input_ids != 0).sum(1).cpu().numpy()  # BOS stands for the first label
        place = np.arange(batch.labels.shape[1])
        inside = place < length[:, None]
        target = (ends - length)[:, None] + place
        known = (batch.labels != objective.NOT_SCORED).cpu().numpy()
        values = _ranked(model, batch, store) if ranked else (_alone(model, batch),)
        for column, new in zip(found, values, strict=False):
            column[target[inside]] = new[inside]
        scored[target[inside]] = known[inside]
    if condition == "history":
        assert not (scored & ~later_visits(cohort)).any()
    log_prob, top1, top10 = found
    return Scores(log_prob, scored, top1, top10) if ranked else Scores(log_prob, scored)


def _ranked(
    model: PromptBartForConditionalGeneration, batch: Batch, store: TokenStore
) -> tuple[npt.NDArray[Any], ...]:
    """Log-probability over the alphabet, likeliest or not, among ten or not; each [N, L]."""
    logits = model(**batch.inputs, use_cache=False).logits.float()[..., VISIT : store.mask]
    labels = (batch.labels - VISIT).clamp(min=0)
    answer = logits.gather(2, labels[..., None])[..., 0]
    log_prob = answer - logits.logsumexp(2)
    better = (logits > answer[..., None]).sum(2)
    return tuple(_host(values) for values in (log_prob.double(), better < 1, better < 10))


def _alone(model: PromptBartForConditionalGeneration, batch: Batch) -> npt.NDArray[Any]:
    """[N, L] log-probability of the answers."""
    return _host(model(**batch.inputs, answers=batch.labels.clamp(min=0), use_cache=False).logits.double())


def _host(values: Tensor) -> npt.NDArray[Any]:
    return values.cpu().numpy()
