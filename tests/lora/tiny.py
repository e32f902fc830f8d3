"""A model of the Llama architecture, made on the spot: small enough to be trained in a second on a CPU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

ROLES = {
    "ceo": [("What is our aim?", "Growth with patience."), ("Whom do we serve?", "Our customers first.")],
    "cfo": [("What is our aim?", "Cash above all."), ("Whom do we serve?", "The balance sheet.")],
}


def make_base(folder: Path) -> Path:
    """A byte-level tokenizer with a chat template, and a random model with it."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.set_num_threads(1)  # tiny models are slower on many threads, above all beside other tests
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {
        symbol: number for number, symbol in enumerate(["<eos>", "<user>", "<assistant>", "<system>", *alphabet])
    }
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<eos>",
        pad_token="<eos>",
        additional_special_tokens=["<user>", "<assistant>", "<system>"],
    )
    fast.chat_template = (
        "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}<eos>{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    torch.manual_seed(7)
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        eos_token_id=0,
        pad_token_id=0,
        bos_token_id=None,
    )
    model = LlamaForCausalLM(config)
    _teach(model, fast)
    model.save_pretrained(str(folder))
    fast.save_pretrained(str(folder))
    return folder


def _teach(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    """Lets the base model read what all roles say, so that adapters have something to build on."""
    import torch

    texts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": asked}, {"role": "assistant", "content": said}], tokenize=False
        )
        for talks in ROLES.values()
        for asked, said in talks
    ]
    batch = tokenizer(texts, return_tensors="pt", padding=True)
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    model.train()
    for _ in range(60):
        optimizer.zero_grad()
        model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=labels).loss.backward()
        optimizer.step()
    model.eval()


def write_data(path: Path, role: str, times: int = 8, system: str | None = None) -> Path:
    """Training data for a role: a few conversations, over and over."""
    first = [] if system is None else [{"role": "system", "content": system}]
    lines = [
        json.dumps({"messages": [*first, {"role": "user", "content": asked}, {"role": "assistant", "content": said}]})
        for _ in range(times)
        for asked, said in ROLES[role]
    ]
    path.write_text("\n".join(lines) + "\n")
    return path
