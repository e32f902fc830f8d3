from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aos.lora.data import read_examples
from aos.lora.errors import TrainingDataInvalid, TrainingJobInvalid
from aos.lora.job import TrainingJob
from tests.lora.tiny import write_data

GOOD = '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}'


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("not json", "not JSON: Expecting value at column 1"),
        ('{"messages": [}', "not JSON"),
        ("[]", "Input should be a valid dictionary"),
        ("{}", "messages: Field required"),
        ('{"messages": []}', "messages: "),
        ('{"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]}', "the last message"),
        ('{"messages": [{"role": "tool", "content": "a"}, {"role": "assistant", "content": "b"}]}', "messages.0.role"),
        (
            '{"messages": [{"role": "user", "content": ""}, {"role": "assistant", "content": "b"}]}',
            "messages.0.content",
        ),
        ('{"messages": [{"role": "user", "content": 7}, {"role": "assistant", "content": "b"}]}', "messages.0.content"),
        (
            '{"messages": [{"role": "user", "content": "a"}, {"role": "system", "content": "b"},'
            ' {"role": "assistant", "content": "c"}]}',
            "only the first",
        ),
        ("\udcff", "not UTF-8 at byte 0"),
    ],
)
def test_a_mistake_names_its_line(tmp_path: Path, line: str, said: str) -> None:
    path = tmp_path / "train.jsonl"
    path.write_bytes(f"{GOOD}\n\n{line}\n{GOOD}\n".encode(errors="surrogateescape"))
    with pytest.raises(TrainingDataInvalid) as caught:
        read_examples(path)
    assert f"line 3: {said}" in caught.value.detail


def test_several_mistakes_are_named_at_once_and_a_bound_holds(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text("x\n" * 100)
    with pytest.raises(TrainingDataInvalid) as caught:
        read_examples(path)
    assert caught.value.detail.count("line ") == 20


@pytest.mark.parametrize("content", ["", "\n\n"])
def test_empty_data_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text(content)
    with pytest.raises(TrainingDataInvalid, match="no example"):
        read_examples(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingDataInvalid, match="No such file"):
        read_examples(tmp_path / "nowhere.jsonl")


def test_a_line_without_end_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text(GOOD + "\n" + "x" * 3_000_000)
    with pytest.raises(TrainingDataInvalid, match="line 2: over"):
        read_examples(path)


def test_the_hash_is_that_of_what_is_said(tmp_path: Path) -> None:
    one, two, three = tmp_path / "1", tmp_path / "2", tmp_path / "3"
    one.write_text(GOOD)
    two.write_text(json.dumps(json.loads(GOOD), indent=None, separators=(" ,", " : ")) + "\n\n")
    three.write_text(GOOD.replace('"b"', '"c"'))
    first, second, third = (read_examples(path).data_hash for path in (one, two, three))
    assert first == second != third


@given(count=st.integers(1, 60), fraction=st.floats(0, 0.5), seed=st.integers(0, 2**32 - 1))
def test_a_split_loses_nothing(
    tmp_path_factory: pytest.TempPathFactory, count: int, fraction: float, seed: int
) -> None:
    path = tmp_path_factory.mktemp("split") / "train.jsonl"
    path.write_text("\n".join(GOOD.replace('"a"', f'"{number}"') for number in range(count)))
    data = read_examples(path)
    training, evaluation = data.split(fraction, seed)
    assert sorted(e.messages[0].content for e in (*training, *evaluation)) == sorted(map(str, range(count)))
    assert training
    assert bool(evaluation) == (count * fraction >= 1 or (count >= 10 and fraction > 0))
    assert (training, evaluation) == data.split(fraction, seed)


@pytest.mark.parametrize(
    ("adapter", "params", "config", "said"),
    [
        ("../etc", {}, {}, "adapter"),
        ("a/b", {}, {}, "adapter"),
        ("", {}, {}, "adapter"),
        ("Ä", {}, {}, "adapter"),
        ("ceo", {"epochs": 0}, {}, "params.epochs"),
        ("ceo", {"learning_rate": 5}, {}, "params.learning_rate"),
        ("ceo", {"unknown": 1}, {}, "params.unknown"),
        ("ceo", {"model_name": ""}, {}, "params.model_name"),
        ("ceo", {}, {"r": 0}, "config.r"),
        ("ceo", {}, {"target_modules": []}, "config.target_modules"),
        ("ceo", {}, {"task_type": "seq2seq"}, "config.task_type"),
        ("ceo", {}, {"adapter_name": "a/../b"}, "config.adapter_name"),
    ],
)
def test_a_wrong_job_names_the_parameter(
    adapter: str, params: dict[str, object], config: dict[str, object], said: str
) -> None:
    with pytest.raises(TrainingJobInvalid, match=said):
        TrainingJob.read(adapter, {"model_name": "m", "data_path": "d", **params}, config)


def test_the_seeds_parameters_are_a_job(tmp_path: Path) -> None:
    job = TrainingJob.read(
        "ceo",
        {
            "model_name": "meta-llama/Llama-3.1-8B-Instruct",
            "data_path": str(write_data(tmp_path / "train.jsonl", "ceo")),
            "output_dir": "./outputs",
        },
        {"task_type": "causal_lm", "r": 16, "lora_alpha": 32, "target_modules": ["q_proj", "v_proj"]},
    )
    assert job.folder == Path("outputs/ceo")
    assert job.fingerprint("a") != job.fingerprint("b")
