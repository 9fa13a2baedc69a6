"""What writing a model for llama.cpp and for Ollama returns."""

from typing import Literal

from .base import Result


class GgufCheck(Result):
    """The file read again and held against the model.

    `largest_error` is the largest difference of a compared value in units of what the type may round: at most 1 passes.
    """

    tensors: int
    compared_tensors: int
    compared_values: int
    largest_error: float
    same_shapes: bool
    same_tokens: bool
    same_template: bool
    passed: bool


class GgufFacts(Result):
    """A GGUF file on disk. `stop_tokens` end an answer; `bos_added` says that llama.cpp puts BOS before a prompt."""

    file: str
    kind: str
    architecture: str
    size_bytes: int
    sha256: str
    parameters: int
    tensors: int
    tokens: int
    tokenizer_model: str
    pre_tokenizer: str
    bos_added: bool
    stop_tokens: list[str]
    chat_template_sha256: str | None
    check: GgufCheck
    notes: list[str]
    seconds: float


class ConversationParity(Result):
    """One conversation in the trained form and in the exported one; the texts where they differ.

    A text of None means that this form refuses the conversation.
    """

    name: str
    same: bool
    expected: str | None = None
    got: str | None = None


class TemplateParity(Result):
    """How many conversations the exported form turns into the very text that was trained; `bos` says who writes BOS."""

    form: Literal["gguf", "ollama"]
    conversations: int
    same: int
    different: list[ConversationParity]
    bos: str
    passed: bool


class OllamaFacts(Result):
    """A directory that `ollama create` takes: Modelfile and model. `parity` compares its template with the trained one."""

    directory: str
    modelfile: str
    gguf: str
    template: str
    stops: list[str]
    parameters: dict[str, float | int]
    parity: TemplateParity
    notes: list[str]
