"""A base model in memory with any number of its adapters; one text is generated at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aos.lora.data import Example
from aos.lora.errors import PromptTooLong, UnknownAdapter, need_torch
from aos.lora.tokens import IGNORED, encode, prompt_ids
from aos.lora.training import load_base

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class Generated:
    """A text; `finish_reason` is `stop`, or `length` when it was cut at the token limit or cancelled."""

    text: str
    input_tokens: int
    output_tokens: int
    finish_reason: str


class AdapterModel:
    """Blocks while it works: call it from a thread. Calls wait for one another.

    Args:
        base: Folder or hub name of the base model.
        adapters: Folder in PEFT format by name.
    """

    def __init__(self, base: str, adapters: Mapping[str, Path]) -> None:
        need_torch()
        from peft import PeftModel

        self._tokenizer: PreTrainedTokenizerBase
        self._tokenizer, model = load_base(base)
        self._model: PreTrainedModel | PeftModel = model
        self._adapters = frozenset(adapters)
        for name, folder in adapters.items():
            if isinstance(self._model, PeftModel):
                self._model.load_adapter(str(folder), adapter_name=name)
            else:
                self._model = PeftModel.from_pretrained(model, str(folder), adapter_name=name)
        self._model.eval()
        self._turn = threading.Lock()

    def prompt(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] = ()) -> list[int]:
        """The tokens of a conversation, up to where the model speaks.

        Raises:
            PromptTooLong: They leave no place for an answer: what a model says beyond its context makes no sense.
        """
        extra = {"tools": list(tools)} if tools else {}
        ids = prompt_ids(self._tokenizer, messages, **extra)
        most = getattr(self._model.config, "max_position_embeddings", None)
        if isinstance(most, int) and len(ids) >= most:
            raise PromptTooLong(
                f"This model's maximum context length is {most} tokens; the messages have {len(ids)}. Send fewer."
            )
        return ids

    def generate(
        self,
        adapter: str | None,
        messages: Sequence[Mapping[str, Any]],
        *,
        max_tokens: int = 512,
        temperature: float = 0.0,
        top_p: float = 1.0,
        tools: Sequence[Mapping[str, Any]] = (),
        on_text: Callable[[str], None] | None = None,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> Generated:
        """Lets the model (with an adapter, or as it is) say what comes next.

        Args:
            on_text: Called with each piece of text as it comes.
            cancelled: Asked after every token; ends the text.

        Raises:
            UnknownAdapter: None is loaded under this name.
            PromptTooLong: See `prompt`.
        """
        import torch
        from transformers import StoppingCriteria, StoppingCriteriaList, TextStreamer

        tokenizer = self._tokenizer

        class Streamer(TextStreamer):
            def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
                if on_text is not None and text:
                    on_text(text)

        class Cancelled(StoppingCriteria):
            def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
                return torch.full((input_ids.shape[0],), cancelled(), dtype=torch.bool)

        ids = self.prompt(messages, tools)
        given = torch.tensor([ids], device=self._model.device)
        sampling = (
            {"do_sample": True, "temperature": temperature, "top_p": top_p} if temperature > 0 else {"do_sample": False}
        )
        with self._using(adapter), torch.no_grad():
            made = self._model.generate(
                input_ids=given,
                attention_mask=torch.ones_like(given),
                max_new_tokens=max_tokens,
                pad_token_id=tokenizer.pad_token_id,
                eos_token_id=tokenizer.eos_token_id,
                streamer=None if on_text is None else Streamer(tokenizer, skip_prompt=True, skip_special_tokens=True),
                stopping_criteria=StoppingCriteriaList([Cancelled()]),
                **sampling,
            )
        new = made[0, len(ids) :].tolist()
        ended = bool(new) and new[-1] == tokenizer.eos_token_id
        text = tokenizer.decode(new, skip_special_tokens=True)
        return Generated(text, len(ids), len(new), "stop" if ended else "length")

    def loss(self, adapter: str | None, examples: Sequence[Example], max_length: int = 2048) -> float:
        """Mean cross-entropy (nats per token) of the assistant's tokens in the examples."""
        import torch

        total, count = 0.0, 0
        with self._using(adapter), torch.no_grad():
            for example in examples:
                tokens = encode(self._tokenizer, example.messages, max_length)
                learnt = sum(label != IGNORED for label in tokens.labels)
                if not learnt:
                    continue
                device = self._model.device
                ids, labels = (
                    torch.tensor([tokens.input_ids], device=device),
                    torch.tensor([tokens.labels], device=device),
                )
                total += float(self._model(input_ids=ids, labels=labels).loss) * learnt
                count += learnt
        return total / count if count else float("nan")

    @contextmanager
    def _using(self, adapter: str | None) -> Iterator[None]:
        from peft import PeftModel

        if adapter is not None and adapter not in self._adapters:
            raise UnknownAdapter(
                f"No adapter {adapter!r} is loaded. Loaded: {', '.join(sorted(self._adapters)) or 'none'}."
            )
        with self._turn:
            if not isinstance(self._model, PeftModel):
                yield
            elif adapter is None:
                with self._model.disable_adapter():
                    yield
            else:
                self._model.set_adapter(adapter)
                yield
