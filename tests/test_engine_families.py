"""Every family trains through the true 4-bit path, in every layout of rows, to an adapter that plain PEFT loads."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qlora_tools.config import parse_config

from .families import FAMILIES

Raw = Callable[..., dict[str, Any]]
Models = Callable[[str], Path]
EVERY_FAMILY = pytest.mark.parametrize("family", FAMILIES)


def train(raw: dict[str, Any]) -> Any:
    from qlora_tools import train as train_from_config

    return train_from_config(parse_config(raw))


@EVERY_FAMILY
def test_a_family_trains_in_nf4_and_plain_peft_loads_its_adapter(
    family: str, tiny_model: Models, chat_rows: Path, config_for: Raw
) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    result = train(config_for(tiny_model(family), chat_rows, training={"max_steps": 8, "learning_rate": 5e-3}))
    assert result.steps == len(result.losses) == 8
    assert result.losses[-1] < result.losses[0]
    assert 0 < result.trainable_parameters < result.total_parameters / 2
    base = AutoModelForCausalLM.from_pretrained(tiny_model(family), dtype=torch.float32)
    tokens = torch.arange(10, 20)[None]
    before = base(tokens).logits.detach().clone()
    adapted = PeftModel.from_pretrained(base, result.adapter_directory)
    assert {parameter.dtype for name, parameter in adapted.named_parameters() if "lora_" in name} == {torch.float32}
    assert (adapted(tokens).logits - before).abs().max() > 1e-3


# test_packed_losses.py holds every family in fp32; these have windows, caps and norms of their own.
@pytest.mark.parametrize(
    "family",
    [name if name in ("gemma2", "qwen3") else pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES],
)
def test_rows_joined_without_padding_give_the_losses_of_padded_rows(
    family: str, tiny_model: Models, chat_rows: Path, config_for: Raw
) -> None:
    padded = train(config_for(tiny_model(family), chat_rows, training={"packing": "off"}))
    joined = train(config_for(tiny_model(family), chat_rows, training={"packing": "padding_free"}))
    assert (padded.packing, joined.packing) == ("off", "padding_free")
    assert joined.losses == pytest.approx(padded.losses, abs=2e-5)


@EVERY_FAMILY
def test_only_answers_and_their_end_of_turn_are_learnt(family: str, tiny_model: Models) -> None:
    from transformers import AutoTokenizer

    from qlora_tools.data.examples import Conversation, Message
    from qlora_tools.data.rendering import Renderer
    from qlora_tools.data.rows import IGNORED, LengthLimit, tokenize_examples

    tokenizer = AutoTokenizer.from_pretrained(tiny_model(family))
    turns = [("user", "say one"), ("assistant", "one it is"), ("user", "say two"), ("assistant", "two it is")]
    chat = Conversation(tuple(Message(role=role, content=content) for role, content in turns))
    renderer = Renderer.for_examples(tokenizer, [chat])

    def learnt(loss_on: Any) -> str:
        tokens = tokenize_examples([chat], renderer, loss_on=loss_on, limit=LengthLimit(512, "cut"))
        assert tokenizer.convert_tokens_to_ids(FAMILIES[family].end_of_turn) in tokens.stop_token_ids
        return str(tokenizer.decode([label for label in tokens.rows[0].labels if label != IGNORED]))

    end, thought = FAMILIES[family].end_of_turn, "<think>\n\n</think>\n\n" if family == "qwen3" else ""
    space = " " if family == "mistral" else ""
    assert learnt("completions") == f"{space}{thought}two it is{end}"
    assert learnt("assistant") == f"{space}one it is{end}{space}{thought}two it is{end}"


def test_a_template_that_rewrites_earlier_answers_trains_on_what_stands_in_the_text(
    tiny_model: Models, tmp_path: Path, config_for: Raw
) -> None:
    from .conftest import write_rows

    said = ("say {}", "{} it is", "say it again: {}", "{} it is again")
    rows = [
        [{"role": ("user", "assistant")[i % 2], "content": text.format(n)} for i, text in enumerate(said)]
        for n in ("one", "two", "three", "four")
    ]
    data = write_rows(tmp_path / "multi.jsonl", [{"messages": turns} for turns in rows])
    training = {"max_steps": 8, "max_length_tokens": 256, "learning_rate": 5e-3}
    result = train(config_for(tiny_model("qwen3"), data, data={"loss_on": "assistant"}, training=training))
    assert (result.training_rows.read, result.training_rows.used) == (4, 4)
    assert result.losses[-1] < result.losses[0]


def test_masks_are_right_for_tokenizers_that_mark_words_by_a_leading_space_sign() -> None:
    """Llama-2 and Mistral tokenizers put the sign in front of the text, so that characters and tokens are shifted."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    from qlora_tools.data.examples import Conversation, Message
    from qlora_tools.data.rendering import Renderer
    from qlora_tools.data.rows import IGNORED, LengthLimit, tokenize_examples

    bpe = Tokenizer(models.BPE(unk_token="<unk>"))
    bpe.pre_tokenizer = pre_tokenizers.Metaspace()
    bpe.decoder = decoders.Metaspace()
    specials = ["<unk>", "<s>", "</s>"]
    bpe.train_from_iterator(
        ["say one two three [INST] [/INST] one it is"] * 3,
        trainers.BpeTrainer(vocab_size=120, special_tokens=specials, show_progress=False),
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    tokenizer.chat_template = FAMILIES["mistral"].template
    turns = (Message(role="user", content="say one"), Message(role="assistant", content="one it is"))
    example = Conversation(turns)
    renderer = Renderer.for_examples(tokenizer, [example])
    row = tokenize_examples([example], renderer, loss_on="completions", limit=LengthLimit(99, "cut")).rows[0]
    learnt = [label for label in row.labels if label != IGNORED]
    asked = tokenizer(renderer.prompt(example.messages[:1]), add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(learnt).strip() == "one it is</s>"
    assert row.input_ids == asked + learnt
