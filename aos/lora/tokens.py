"""Conversations as tokens: what the model reads, and which of it it learns to say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aos.lora.data import ChatMessage

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PLAIN_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>\n{{ message['content'] }}{{ eos_token }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
"""For base models whose tokenizer brings no chat template; saved with the adapter."""
IGNORED = -100
"""The label of a token that is read, not learnt (torch.nn.CrossEntropyLoss)."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """An example as the model takes it; `labels` are `IGNORED` but for the assistant's messages."""

    input_ids: list[int]
    labels: list[int]


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """The base model's tokenizer, with a chat template and a padding token."""
    from transformers import AutoTokenizer

    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(name)
    if tokenizer.chat_template is None:
        tokenizer.chat_template = PLAIN_TEMPLATE
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def encode(tokenizer: PreTrainedTokenizerBase, messages: Sequence[ChatMessage], max_length: int) -> Tokens:
    """Encodes one conversation; of a long one the end is kept.

    The assistant's tokens are found as what each of its messages adds to the text before it, which holds for any chat
    template that renders message after message.
    """
    said = [message.model_dump() for message in messages]
    input_ids: list[int] = []
    labels: list[int] = []
    for index, message in enumerate(messages):
        if message.role != "assistant":
            continue
        before = prompt_ids(tokenizer, said[:index])
        whole = _ids(tokenizer, said[: index + 1], prompt=False)
        if whole[: len(before)] != before:
            # The template rewrites what came before (or puts more into its prompt): learn the message as a whole.
            before = _common(before, whole)
        read = before[len(input_ids) :] if before[: len(input_ids)] == input_ids else before
        if read is before:
            input_ids, labels = [], []
        input_ids += read + whole[len(before) :]
        labels += [IGNORED] * len(read) + whole[len(before) :]
    return Tokens(input_ids[-max_length:], labels[-max_length:])


def prompt_ids(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Any], **extra: Any) -> list[int]:
    """The conversation so far, up to where the assistant speaks."""
    return _ids(tokenizer, messages, prompt=True, **extra)


def _ids(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Any], *, prompt: bool, **extra: Any) -> list[int]:
    text = tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=prompt, **extra)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _common(first: list[int], second: list[int]) -> list[int]:
    length = next(
        (i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), min(len(first), len(second))
    )
    return first[:length]
