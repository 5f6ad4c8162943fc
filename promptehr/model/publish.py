"""Trained weights to the folder that `from_pretrained` reads.

Writes what the transformers library expects (configuration, weights, generation defaults, tokenizer) and a
model card; knows tokens by name, never patients.
"""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import GenerationConfig, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from promptehr import artifacts, tokens
from promptehr.model import checkpoint
from promptehr.model.batches import CONDITIONS
from promptehr.model.promptbart import PromptBartForConditionalGeneration
from promptehr.tokens import Vocabulary

FILES = (
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "README.md",
)


def publish(
    folder: Path, model: PromptBartForConditionalGeneration, vocabulary: Vocabulary, card: str
) -> list[Path]:
    """Write the model's folder, file by file, each whole or not at all; returns the files."""
    model.generation_config = generation_defaults(model)
    with checkpoint.writing(folder), _staged(folder) as staged, _no_bars():
        model.save_pretrained(staged)
        tokenizer(vocabulary).save_pretrained(staged)
        (staged / "README.md").write_text(card, "utf-8")
        for file in FILES:
            with artifacts.published(folder / file) as temporary:
                shutil.copyfile(staged / file, temporary)
    return [folder / file for file in FILES]


@contextmanager
def _staged(folder: Path) -> Iterator[Path]:
    """A private folder beside the model's; what a killed run left there and in the model's goes first."""
    staged = folder.with_name(f".{folder.name}")
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir(parents=True, mode=artifacts.PRIVATE_FOLDER)
    for left in folder.glob(".*"):
        left.unlink()
    try:
        yield staged
    finally:
        shutil.rmtree(staged)


def generation_defaults(model: PromptBartForConditionalGeneration) -> GenerationConfig:
    """Sampling from the model's own distribution up to END, within its positions."""
    return GenerationConfig(
        bos_token_id=tokens.BOS,
        decoder_start_token_id=tokens.BOS,
        eos_token_id=tokens.END,
        pad_token_id=tokens.PAD,
        do_sample=True,
        top_k=0,
        max_length=model.config.max_position_embeddings - model.config.prompts,
    )


def tokenizer(vocabulary: Vocabulary) -> PreTrainedTokenizerFast:
    """Token names separated by blanks to ids and back, for example `BOS <v> 4019 25000 <\\v> END`."""
    ids = {name: place for place, name in enumerate(vocabulary.names)}
    words = Tokenizer(WordLevel(ids, unk_token="<unk>"))
    words.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        bos_token="BOS",
        eos_token="END",
        sep_token="EOS",
        pad_token="PAD",
        mask_token="<mask>",
        unk_token="<unk>",
        additional_special_tokens=["<v>", "<\\v>"],
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
    )


def card(
    *,
    settings: Sequence[str],
    data: Mapping[str, str],
    record: Mapping[str, Any],
    parameters: int,
    vocabulary: Vocabulary,
) -> str:
    """The model card: what it is, what it was made from, its numbers, what may not be done with it.

    Args:
        settings: `train.key=value` lines.
        data: sha256 of the inputs by name.
        record: The published epoch's record of the history.
        parameters: Trained numbers.
        vocabulary: The age's mean and spread.
    """
    return "\n".join(
        [
            "# PromptBART",
            "",
            "Generates diagnosis histories of synthetic patients, visit by visit, for given age, gender and",
            f"ethnicity. {parameters:,} parameters, epoch {record['epoch']}, step {record['step']}.",
            "",
            "> **Data use.** Weights trained on credentialed records (MIMIC) are derived data: the data-use",
            "> agreement forbids sharing them. Samples may repeat training records; read the privacy",
            "> evaluation before anything leaves this machine.",
            "",
            "## Use",
            "",
            "```python",
            "import promptehr.model  # registers PromptBART",
            "from transformers import AutoModelForSeq2SeqLM, AutoTokenizer",
            "",
            'model = AutoModelForSeq2SeqLM.from_pretrained("model")',
            'tokenizer = AutoTokenizer.from_pretrained("model")',
            "```",
            "",
            "The encoder is given `BOS EOS` and the demographics:",
            "",
            f"- `x_num` [B, 1]: (age in years - {vocabulary.age_mean:.4f}) / {vocabulary.age_spread:.4f}",
            f"- `x_cat` [B, 2]: place among {', '.join(tokens.GENDERS)}, and among"
            f" {', '.join(tokens.ETHNICITIES)}",
            "",
            "## Validation",
            "",
            *_table(record["valid"]),
            "",
            "Only `prompt` is generation. The others see part of the answer; do not compare them with it.",
            "",
            "## Made from",
            "",
            *_origin(data),
            *(f"- {name}: sha256 `{digest}`" for name, digest in sorted(data.items())),
            *(f"- `{text}`" for text in settings),
            "",
        ]
    )


def _origin(data: Mapping[str, str]) -> Iterator[str]:
    if any(name.startswith("init_from/") for name in data):
        yield "Training started from the transformer weights, not the embeddings, of a BART checkpoint whose"
        yield "files are listed under `init_from`; its licence and its training data are part of this model."
        yield ""


def _table(valid: Mapping[str, Any]) -> Iterator[str]:
    yield "| condition | tokens | NLL, nats | perplexity | accuracy | scored |"
    yield "|---|---|---|---|---|---|"
    for condition in CONDITIONS:
        for name in ("all", "codes"):
            row = valid[condition][name]
            numbers = " | ".join(_number(row[key]) for key in ("nll", "perplexity", "accuracy"))
            yield f"| {condition} | {name} | {numbers} | {row['tokens']:,} |"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


@contextmanager
def _no_bars() -> Iterator[None]:
    """Keep transformers' progress bars off the terminal, which is the pipeline's own."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()
