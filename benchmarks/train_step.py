"""Training steps beside the naive one and the machine's own matrix product.

    python benchmarks/train_step.py                    BART-base shape on this machine's CPU
    python benchmarks/train_step.py --device cuda      the same on a GPU, with compiled graphs
    python benchmarks/train_step.py --shape demo       the demo's model
    python benchmarks/train_step.py --profile steps.txt        and which operations take the time of our steps
    python benchmarks/train_step.py --threads 1 --processor-time   on a machine that others use

All rows train under the condition `prompt` on the same patients, so a useful token is the same thing
in each: a decoder label that is scored. The naive step is transformers' BART, fp32, 16 patients
padded to 256 tokens on both sides, AdamW. `peak` is a square matrix product just before and just after
a row, in the kind of number that is fastest; `share of peak` counts the multiplications that the useful
tokens need, not those spent on padding. On two idle cores the default takes about two minutes.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from pathlib import Path

import numpy as np
import torch
from torch import nn
from transformers import BartConfig, BartForConditionalGeneration

from promptehr import tokens
from promptehr.model import config, device, loop, objective, promptbart
from promptehr.model.batches import TokenStore, plan_epoch
from promptehr.settings import Train

CODES = 6_000
PADDED, NAIVE_PATIENTS = 256, 16
PROFILED_STEPS, OPERATIONS = 5, 25
SHAPES = {
    "base": {},
    "demo": {
        "width": 64,
        "encoder_layers": 1,
        "decoder_layers": 2,
        "heads": 4,
        "feed_forward": 256,
        "positions": 288,
    },
}


Clock = Callable[[], float]


@dataclass(frozen=True)
class Row:
    """One way to train, measured: scored labels and floating-point operations they need, per second."""

    name: str
    tokens_per_s: float
    useful_share: float
    flops: float


@dataclass(frozen=True)
class Done:
    """Scored labels and patients, of a step or of a second."""

    labels: float
    patients: float


def main(given: Sequence[str] | None = None) -> None:
    chosen = arguments(given)
    where = torch.device(chosen.device)
    torch.set_num_threads(chosen.threads)
    torch.manual_seed(1)
    if chosen.profile:
        chosen.profile.write_text("")
    patients = store(chosen.patients, where)
    clock = time.process_time if chosen.processor_time else time.perf_counter
    peaks = {name: matmul_flops(kind, where, clock) for name, kind in kinds().items()}
    best = max(peaks, key=lambda name: peaks[name])
    print(f"{where}, {chosen.threads} threads, torch {torch.__version__}, shape {chosen.shape}")
    print(", ".join(f"peak {name} {flops / 1e12:.4f} TFLOP/s" for name, flops in peaks.items()))
    print(f"auto chooses {'bf16' if device.has_bf16(where) else 'fp32'}\n")
    print(f"| step | useful tokens/s | to naive | useful share | {best} peak, TFLOP/s | share of peak |")
    print("|---|---|---|---|---|---|", flush=True)
    measure = [partial(naive, patients, chosen, clock)]
    measure += [partial(ours, patients, chosen, train, clock) for train in recipes(chosen)]
    first = 0.0
    for row, peak in between_peaks(measure, partial(matmul_flops, kinds()[best], where, clock)):
        first = first or row.tokens_per_s
        rate = f"{row.tokens_per_s:,.1f} | {row.tokens_per_s / first:.1f}"
        print(
            f"| {row.name} | {rate} | {row.useful_share:.1%} | {peak / 1e12:.4f} | {row.flops / peak:.0%} |",
            flush=True,
        )


def arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--shape", choices=tuple(SHAPES), default="base")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--patients", type=int, default=4_000)
    parser.add_argument("--seconds", type=float, default=10.0, help="measured per row, after a first step")
    parser.add_argument("--batches", nargs="*", default=["16p", "1024t", "2048t"], metavar="16p|4096t")
    parser.add_argument("--profile", type=Path, help="file that gets a table of operations per row")
    parser.add_argument(
        "--processor-time", action="store_true", help="of one thread, where others use the machine as well"
    )
    chosen = parser.parse_args(given)
    if chosen.processor_time and (chosen.threads != 1 or chosen.device != "cpu"):
        parser.error("--processor-time needs --threads 1 and a CPU: it would add up what threads do at once")
    return chosen


def kinds() -> dict[str, torch.dtype]:
    return {"fp32": torch.float32, "bf16": torch.bfloat16}


def recipes(chosen: argparse.Namespace) -> Iterator[Train]:
    """Batches by number of patients (p) or by tokens (t), in the arithmetic that the hardware has."""
    for text in chosen.batches:
        size = int(text[:-1])
        batch = {"batch_patients": size} if text.endswith("p") else {"batch_tokens": size}
        yield Train.model_validate(
            {
                "shape": SHAPES[chosen.shape],
                "conditions": {"prompt": 1.0, "history": 0.0, "denoise": 0.0},
                "batch_patients": None,
                "epochs": 1000,
                **batch,
            }
        )


def store(count: int, where: torch.device) -> TokenStore:
    """Patients with the lengths of MIMIC-III's: median 13 tokens, mean 17, one in a hundred above 72."""
    rng = np.random.default_rng(1)
    codes = np.clip(np.exp(rng.normal(2.25, 0.85, count)), 1, PADDED - 4).astype(int)
    sequences = [
        [tokens.BOS, tokens.VISIT, *rng.choice(CODES, size, replace=False) + 6, tokens.VISIT_END, tokens.END]
        for size in codes
    ]
    cohort = tokens.Cohort(
        subject_id=np.arange(count),
        age_z=rng.normal(size=count).astype(np.float32),
        gender_id=rng.integers(0, 2, count),
        ethnicity_id=rng.integers(0, 6, count),
        tokens=np.concatenate(sequences).astype(np.int64),
        offsets=np.cumsum([0, *map(len, sequences)]),
    )
    return TokenStore.from_cohort(cohort, where, vocabulary_size=CODES + 8)


# --- what is measured --------------------------------------------------------------------------


def naive(patients: TokenStore, chosen: argparse.Namespace, clock: Clock) -> Row:
    """transformers' BART as a first attempt trains it: everything padded to one length."""
    train = next(recipes(chosen))
    shape = config.from_settings(train, patients.vocabulary_size).to_dict()
    positions = {"max_position_embeddings": max(shape["max_position_embeddings"], PADDED)}
    model = BartForConditionalGeneration(BartConfig(**{**shape, **positions, "model_type": "bart"}))
    model.to(patients.device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    places = cycle(np.random.default_rng(2).permutation(len(patients)))
    mean = float(patients.lengths.mean() - 1)

    def step(count: int = NAIVE_PATIENTS) -> Done:
        rows = torch.tensor([next(places) for _ in range(count)], device=patients.device)
        zero = torch.zeros_like(rows)
        batch = objective.between(patients, rows, visible=zero, first=zero, widths=(PADDED, PADDED))
        inputs = {name: value for name, value in batch.inputs.items() if not name.startswith("x_")}
        loss = model(**inputs, labels=batch.labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return Done(mean * count, count)  # all steps take alike, so their mean is what counts

    rate = per_second(step, patients.device, chosen.seconds, clock, first=partial(step, 1))
    return Row("naive: fp32, 16 patients padded to 256", rate.labels, mean / PADDED, flops(model, rate))


def ours(patients: TokenStore, chosen: argparse.Namespace, train: Train, clock: Clock) -> Row:
    """The product's own step, as `loop.fit` calls it."""
    shape = config.from_settings(train, patients.vocabulary_size)
    model = promptbart.start(shape, objective.log_unigram(patients), seed=1).to(patients.device)
    state = loop.start_state(model, train)
    static = device.compiles(train.compile, patients.device)
    forward = loop.compiled(model) if static else model
    plan = plan_epoch(patients, train, epoch=0, static=static)
    order = cycle(evenly(sorted(range(len(plan.steps)), key=lambda place: plan.steps[place].decoder_width)))

    def step() -> Done:
        now, mean = plan.steps[next(order)], plan.labels_per_step
        loop.train_step(state, now, patients, train, labels=mean, steps=10**6, forward=forward)
        rows = now.rows[now.present].cpu().numpy()
        return Done(float((patients.lengths[rows] - 1).sum()), len(rows))

    if static:  # every shape is compiled or recorded once; a run pays for that in its first epoch
        for _ in plan.steps:
            step()
    at_least = 1 if chosen.shape == "base" else 20
    rate = per_second(step, patients.device, chosen.seconds, clock, at_least=at_least)
    size = f"{train.batch_patients} patients" if train.batch_patients else f"{train.batch_tokens} tokens"
    arithmetic = "bf16" if device.has_bf16(patients.device) else "fp32"
    compiled = ", compiled" if static else ""
    name = f"ours: {arithmetic}, {size}{compiled}"
    if chosen.profile:
        with chosen.profile.open("a") as file:
            file.write(f"{name}, {PROFILED_STEPS} steps\n{profile(step, patients.device)}\n")
    return Row(name, rate.labels, plan.useful_share, flops(model, rate))


def profile(step: Callable[[], Done], where: torch.device) -> str:
    """The operations that take most of a few steps' time, on the device that computes."""
    with torch.profiler.profile() as seen:
        for _ in range(PROFILED_STEPS):
            step()
        wait(where)
    kind = "cuda" if where.type == "cuda" else "cpu"
    return str(seen.key_averages().table(sort_by=f"self_{kind}_time_total", row_limit=OPERATIONS))


def evenly(places: Sequence[int]) -> list[int]:
    """The places, each once, in an order whose every beginning is spread over all: steps differ."""
    halves = (int(f"{number:b}"[::-1], 2) / 2 ** number.bit_length() for number in range(1, 2 * len(places)))
    return [places[place] for place in dict.fromkeys(int(half * len(places)) for half in halves)]


def per_second(
    step: Callable[[], Done],
    where: torch.device,
    seconds: float,
    clock: Clock,
    *,
    at_least: int = 1,
    first: Callable[[], Done] | None = None,
) -> Done:
    """What is done in a second by the steps that fit into `seconds`, after one that does not count."""
    (first or step)()
    wait(where)
    began, labels, patients, steps = clock(), 0.0, 0.0, 0
    while clock() - began < seconds or steps < at_least:
        done = step()
        labels, patients, steps = labels + done.labels, patients + done.patients, steps + 1
    wait(where)
    took = clock() - began
    return Done(labels / took, patients / took)


def flops(model: nn.Module, done: Done) -> float:
    """Operations that it takes where nothing is padded: 6 per weight and position it meets.

    A patient has its labels and the prompts in the decoder, BOS, EOS and the prompts in the encoder
    and in the cross-attention's keys and values. Attention's own products and gathers are left out.
    """
    prompts = getattr(model.config, "prompts", 0)
    decoder = keys = 0
    for name, parameter in model.model.decoder.layers.named_parameters():
        of_keys = name.endswith(("encoder_attn.k_proj.weight", "encoder_attn.v_proj.weight"))
        decoder += parameter.numel() * (parameter.ndim > 1 and not of_keys)
        keys += parameter.numel() * of_keys
    encoder = sum(p.numel() for p in model.model.encoder.layers.parameters() if p.ndim > 1)
    written = decoder * (done.labels + prompts * done.patients) + model.lm_head.weight.numel() * done.labels
    return 6.0 * (written + (encoder + keys) * (2 + prompts) * done.patients)


def between_peaks(
    rows: Sequence[Callable[[], Row]], peak: Callable[[], float]
) -> Iterator[tuple[Row, float]]:
    """Each row with the mean of the peaks before and after it, because shared machines change speed."""
    before = peak()
    for measured in rows:
        row, after = measured(), peak()
        yield row, (before + after) / 2
        before = after


def matmul_flops(kind: torch.dtype, where: torch.device, clock: Clock, *, seconds: float = 1.0) -> float:
    """Operations per second of a square product, median of repeats.

    The square grows until a product takes a twentieth of a second: where the hardware has no such
    products of its own, one of 2048 rows would take a minute.
    """
    largest = 2048 if where.type == "cpu" else 8192
    for size in (256, 512, 1024, 2048, 4096, 8192):
        left, right = (torch.randn(size, size, device=where).to(kind) for _ in range(2))
        _product_seconds(left, right, where, clock)
        if size == largest or _product_seconds(left, right, where, clock) > 0.05:
            break
    durations: list[float] = []
    while len(durations) < 3 or sum(durations) < seconds:
        durations.append(_product_seconds(left, right, where, clock))
    return 2.0 * size**3 / statistics.median(durations)


def _product_seconds(left: torch.Tensor, right: torch.Tensor, where: torch.device, clock: Clock) -> float:
    wait(where)
    began = clock()
    left @ right
    wait(where)
    return clock() - began


def wait(where: torch.device) -> None:
    if where.type == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
