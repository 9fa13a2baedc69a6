"""RunConfig: everything that decides what a training run does, as one frozen pydantic model.

The descriptions are the documentation: each says what the field does and which way it moves quality and memory.
`qlora config schema` prints the JSON Schema, `qlora config explain` the table of a given config.
"""

from typing import Literal, Self

from pydantic import Field, model_validator

from ..paths import PathText
from .choices import (
    Attention,
    DtypeChoice,
    ModelSource,
    ModuleNames,
    Optimizer,
    Quantization,
    Schedule,
    Tracker,
)
from .data_schema import DataConfig, Part
from .rules import conflicts


class ModelConfig(Part):
    """Which base model, and how its attention is computed."""

    name: PathText = Field(
        description="Base model: a catalogue name (smollm2-135m-instruct), a local directory (starts with / . or ~), "
        "or a Hub id (owner/name). Larger = better answers, more memory, slower."
    )
    source: ModelSource = Field(
        "auto",
        description="How to read the name. auto goes by its form alone, never by what happens to exist on disk.",
    )
    revision: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9_]+([./-][A-Za-z0-9_]+)*$",
        max_length=200,
        description="Hub branch, tag or commit. A commit makes the run repeatable; no effect on quality or memory.",
    )
    attention_implementation: Attention = Field(
        "auto",
        description="Attention kernel of Transformers. auto = sdpa where the model has it. flash_attention_2 (needs the "
        "flash-attn package) is faster on packed rows; eager keeps tokens x tokens scores and takes the most memory.",
    )


class LoraConfig(Part):
    """The adapter: where it sits, how large it is, how it starts."""

    rank: int = Field(
        16,
        ge=1,
        le=1024,
        description="Rank of B and A. Higher = more capacity and more memory (adapter, gradients and optimiser grow "
        "in proportion). 8-16 suits style, 32-64 instructions, 96-128 hard tasks: heuristics, not laws.",
    )
    alpha: float = Field(
        32.0,
        gt=0,
        le=4096,
        description="Scale: the adapter's output is multiplied by alpha / rank. Higher = stronger updates, like a "
        "higher learning rate. No effect on memory.",
    )
    dropout: float = Field(
        0.0,
        ge=0.0,
        lt=1.0,
        description="Dropout before A. Higher = less overfitting on few rows, slower, and more activation memory.",
    )
    target_modules: Literal["all-linear", "attention"] | ModuleNames = Field(
        "all-linear",
        description="Linear layers that get an adapter: all of them, the attention projections only, or a list of "
        "module names. Fewer = less memory and less capacity.",
    )
    use_rslora: bool = Field(
        False,
        description="Scale by alpha / sqrt(rank) (rsLoRA): keeps high ranks learning. No effect on memory.",
    )
    use_dora: bool = Field(
        False,
        description="Learn direction and magnitude apart (DoRA): often better at low rank, slower, more memory.",
    )
    initialization: Literal["default", "loftq", "pissa"] = Field(
        "default",
        description="Start of A and B. default leaves the model unchanged at step 0; loftq starts by correcting the "
        "NF4 rounding; pissa starts from the main directions of a 16-bit base. Both cost time at the start.",
    )
    modules_to_save: ModuleNames = Field(
        (),
        description="Modules trained and saved in full beside the adapter (embed_tokens, lm_head for new tokens). Each "
        "adds its whole size four times over: weights, gradients and optimiser state.",
    )


class QuantizationConfig(Part):
    """How the frozen base is held in memory."""

    kind: Quantization = Field(
        "nf4",
        description="nf4 and fp4 hold linear layers in 4 bits, int8 in 8, none in 16 (plain LoRA). Fewer bits = less "
        "memory and a little less precision; nf4 loses less than fp4.",
    )
    double_quantization: bool = Field(
        True,
        description="Quantise the 4-bit scales again: saves 0.373 bit a parameter for next to no loss. Only for 4-bit.",
    )
    compute_dtype: DtypeChoice = Field(
        "auto",
        description="Dtype of the matrix products. auto = bfloat16 where the hardware has it, float16 on older GPUs, "
        "float32 on other CPUs. float32 doubles activation memory; float16 can overflow.",
    )
    storage_dtype: Literal["uint8", "bfloat16", "float16", "float32"] = Field(
        "uint8",
        description="Container of the 4-bit weights. FSDP needs it equal to the compute dtype; memory is the same.",
    )


class TrainingConfig(Part):
    """Steps, batches and the optimiser."""

    engine: Literal["auto", "stock", "fast"] = Field(
        "auto",
        description="stock = Transformers + PEFT + TRL. fast = the same trainer, rows and losses to rounding, with less "
        "work and memory: on a CPU for now, for llama, mistral, qwen2 and qwen3 with nf4, fp4 or none, without dropout, DoRA "
        "and lora.modules_to_save; else stock with a warning. auto = stock, for now.",
    )
    epochs: float = Field(
        3.0,
        gt=0,
        le=1000,
        description="Passes over the rows. Higher = learns them better, then by heart (overfitting). No effect on memory.",
    )
    max_steps: int | None = Field(
        None,
        ge=1,
        le=10_000_000,
        description="Optimiser steps; overrides epochs when set. Higher = longer.",
    )
    micro_batch_size: int = Field(
        1,
        ge=1,
        le=4096,
        description="Rows (packed: bins) computed at once. Higher = faster until the GPU is full, more activation memory.",
    )
    gradient_accumulation_steps: int = Field(
        16,
        ge=1,
        le=65536,
        description="Micro-batches added up before a step; effective batch = this x micro_batch_size. Higher = "
        "smoother, slower steps. No effect on memory.",
    )
    max_length_tokens: int = Field(
        2048,
        ge=8,
        le=4_194_304,
        description="Longest row, in tokens (packed: size of a bin). Higher = keeps long rows whole, more memory.",
    )
    packing: Literal["auto", "bins", "padding_free", "off"] = Field(
        "auto",
        description="padding_free joins the rows of a micro-batch without padding or attention between them; bins fills "
        "bins of max_length_tokens with whole rows, so that a micro-batch counts bins (most tokens a second, more rows a "
        "step); off pads rows of like length. auto = padding_free with flash_attention_2, else off.",
    )
    gradient_checkpointing: bool = Field(
        True,
        description="Recompute activations in the backward pass: much less memory, about a quarter to a third slower.",
    )
    memory_limit_gib: float | None = Field(
        None,
        ge=0.5,
        le=4096,
        description="GiB of the card that the fast engine may fill: with gradient_checkpointing it keeps the activations of "
        "as many layers as are sure to fit instead of computing them again; if not even none fits, inputs of layers wait on "
        "the host. Higher = faster. None = none kept; the stock engine does not read it.",
    )
    learning_rate: float = Field(
        2e-4,
        gt=0,
        le=1,
        description="Peak learning rate. Higher = faster, until the loss jumps or turns NaN. Usually 1e-4 to 3e-4.",
    )
    schedule: Schedule = Field("cosine", description="Course of the learning rate after warm-up. No effect on memory.")
    warmup_fraction: float = Field(
        0.03,
        ge=0.0,
        lt=1.0,
        description="Share of the steps in which the learning rate rises. Higher = a steadier start. Usually 0.03-0.05.",
    )
    optimizer: Optimizer = Field(
        "paged_adamw_8bit",
        description="8-bit states take a quarter of the memory of 32-bit ones; paged ones may move to host memory when the "
        "GPU is full. adamw_torch = 8 bytes a trainable parameter.",
    )
    weight_decay: float = Field(
        0.0,
        ge=0.0,
        le=1.0,
        description="Pull of the adapter towards zero. Higher = less overfitting, slower learning. No effect on memory.",
    )
    max_gradient_norm: float = Field(
        1.0,
        gt=0,
        le=1e6,
        description="Longer gradients are scaled down to this norm. Lower = steadier and slower. No effect on memory.",
    )
    evaluation_every_steps: int | None = Field(
        None,
        ge=1,
        description="Evaluate every so many steps, and at the end. Lower = finer curve, more time. None = at the end only.",
    )
    evaluation_samples: int = Field(
        2,
        ge=0,
        le=16,
        description="Held-out prompts that are answered at each evaluation, so that one can read how it learns. Higher = "
        "more to read, more time. No effect on what is learnt.",
    )
    checkpoint_every_steps: int | None = Field(
        None,
        ge=1,
        description="Save a checkpoint every so many steps. Lower = less is lost to a crash, more time to save. None = every "
        "ten minutes. Each new best evaluation and each stop saves one too.",
    )
    early_stopping_patience: int | None = Field(
        None,
        ge=1,
        description="Stop after so many evaluations without a better loss. Lower = shorter, may stop too soon.",
    )
    keep_best: bool = Field(
        True,
        description="Save the adapter of the best evaluation, not the last one. Takes a copy in host memory.",
    )
    log_every_steps: int = Field(1, ge=1, description="Write metrics every so many steps. Lower = finer curve.")
    seed: int = Field(
        42,
        ge=0,
        le=2**32 - 1,
        description="Fixes initial weights, row order and dropout: same seed and machine, same losses.",
    )
    smoke_generation: bool = Field(
        True,
        description="Generate a few tokens before the first step, so that mistakes in the set-up show in seconds.",
    )
    tracking: Tracker = Field(
        "none",
        description="Experiment tracker to report to; its package has to be installed. No effect on quality or memory.",
    )


class OutputConfig(Part):
    """Where the results go."""

    directory: PathText = Field(description="Directory for the adapter, metrics and result; made when it is not there.")
    overwrite: bool = Field(
        False, description="Replace the results of an earlier run in that directory. Off = refuse, nothing is lost."
    )
    keep_checkpoints: int = Field(
        2,
        ge=1,
        le=10_000,
        description="Newest checkpoints to keep beside the one of the best evaluation. Higher = more disk: each takes about "
        "three times the adapter. No effect on quality or memory.",
    )


class RunConfig(Part):
    """One training run. `model.name`, `data.path` and `output.directory` are required; all else has a default.

    Raises pydantic's `ValidationError`; `parse_config` and `load_config` raise `ConfigError`, which
    lists every problem in the user's terms.
    """

    model: ModelConfig
    data: DataConfig
    lora: LoraConfig = LoraConfig()
    quantization: QuantizationConfig = QuantizationConfig()
    training: TrainingConfig = TrainingConfig()
    output: OutputConfig

    @model_validator(mode="after")
    def _parts_agree(self) -> Self:
        found = conflicts(dict(self))
        if found:
            raise ValueError("; ".join(str(problem) for problem in found))
        return self
