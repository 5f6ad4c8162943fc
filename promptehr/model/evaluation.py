"""Held-out numbers of one condition: what each epoch is judged by.

Turns a model and a split into NLL, perplexity and accuracy. Intervals, baselines and the known
optimum are the likelihood stage's; this is the short form that every epoch can afford.
"""

import math
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from promptehr import progress, tokens
from promptehr.model import objective
from promptehr.model.batches import Condition, Shown, TokenStore, derived_seed
from promptehr.model.promptbart import PromptBartForConditionalGeneration
from promptehr.settings import Train

# Padded decoder tokens of a batch, by device. On a CPU larger ones are slower: the logits of each are
# then pages new to the process, and being given those takes as long as the arithmetic.
BATCH_TOKENS = {"cpu": 512, "cuda": 8192}
LARGEST_EXPONENT = math.log(sys.float_info.max)


@torch.no_grad()
def evaluate(
    model: PromptBartForConditionalGeneration,
    store: TokenStore,
    condition: Condition,
    train: Train,
    between: Callable[[], None] = lambda: None,
    log_every_s: float = math.inf,
) -> dict[str, dict[str, Any]]:
    """NLL, perplexity and accuracy under one condition, over all tokens and over codes.

    NLL is the sum of -log P(label) in nats over the scored labels divided by their number,
    perplexity its exponential, accuracy the share of labels that are the likeliest token. Labels
    are the record and END; <unk> is not scored. A uniform model has perplexity N over N codes.
    Under `history` patients with two visits or more count, the first visit is given.

    Args:
        model: Left as it was, in training mode or not.
        store: The split.
        condition: What the encoder sees.
        train: Seed and noise.
        between: Called before every batch; may raise.
        log_every_s: Seconds between lines of the log.

    Returns:
        `all` and `codes`: nll, perplexity, accuracy, tokens; null beside a reason where no label
        is scored.
    """
    was_training = model.training
    model.eval()
    noise = torch.Generator(store.device).manual_seed(derived_seed(train.seed, "validation"))
    sums = torch.zeros(2, 3, dtype=torch.float64, device=store.device)
    chosen = in_batches(store, condition)
    what = f"validation batches, {condition}"
    for rows in progress.steps(chosen, total=len(chosen), what=what, every_s=log_every_s):
        between()
        batch = objective.held_out(store, rows, condition, train.corruption, noise)
        sums += _counts(model(**batch.inputs, use_cache=False).logits, batch.labels)
    model.train(was_training)
    return {name: _means(*row) for name, row in zip(("all", "codes"), sums.tolist(), strict=True)}


def in_batches(store: TokenStore, condition: Shown) -> list[Tensor]:
    """Rows of the store, batch by batch: of all patients, or under `history` of those with two visits."""
    eligible = np.flatnonzero(store.visits >= (2 if condition == "history" else 1))
    chosen = by_length(store.lengths[eligible], BATCH_TOKENS[store.device.type])
    return [torch.from_numpy(eligible[places]).to(store.device) for places in chosen]


def by_length(lengths: tokens.Ints, batch_tokens: int) -> Iterator[tokens.Ints]:
    """Places sorted by length, in batches of at most `batch_tokens` padded tokens, one at least."""
    order = np.argsort(lengths, kind="stable")
    begin = 0
    while begin < len(order):
        end = begin + 1
        while end < len(order) and (end + 1 - begin) * lengths[order[end]] <= batch_tokens:
            end += 1
        yield order[begin:end]
        begin = end


def _counts(logits: Tensor, labels: Tensor) -> Tensor:
    """[all and codes, 3]: nats, labels that were the likeliest token, labels."""
    nll = objective.token_nll(logits, labels).double()
    right = (logits.argmax(-1) == labels).double()
    scored = labels != objective.NOT_SCORED
    return torch.stack(
        [
            torch.stack([(nll * counted).sum(), (right * counted).sum(), counted.double().sum()])
            for counted in (scored, labels >= tokens.FIRST_CODE)
        ]
    )


def _means(nats: float, right: float, labels: float) -> dict[str, Any]:
    if not labels:
        reason = "no label is scored under this condition in this split"
        return {"nll": None, "perplexity": None, "accuracy": None, "tokens": 0, "reason": reason}
    nll = nats / labels
    return {
        "nll": nll,
        "perplexity": perplexity(nll),
        "accuracy": right / labels,
        "tokens": int(labels),
    }


def perplexity(nll: float) -> float:
    """exp(NLL in nats); infinite where no float holds it."""
    return math.exp(nll) if nll < LARGEST_EXPONENT else math.inf
