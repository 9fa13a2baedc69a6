"""Whether vLLM can serve an adapter beside its base, told before it is tried.

What it takes was read in the sources of vLLM 0.33.0: `vllm/config/lora.py` (ranks), `vllm/lora/peft_helper.py` (settings),
`vllm/lora/lora_model.py` (modules) and the model classes that inherit `SupportsLoRA`.
"""

from collections.abc import Iterator

from ..adapters.lora import AdapterFacts
from ..models.local_files import read_model_config
from ..results import ServingCheck
from .source import AdapterSource

READ_VERSION = "0.33.0"
ALLOWED_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
# Text models of the registry whose class takes LoRA.
_ARCHITECTURES = frozenset(
    """AfmoeForCausalLM ApertusForCausalLM BailingMoeForCausalLM BailingMoeV2ForCausalLM Cohere2ForCausalLM CohereForCausalLM
    DeciLMForCausalLM DeepseekForCausalLM DeepseekV2ForCausalLM DeepseekV3ForCausalLM Ernie4_5ForCausalLM
    Ernie4_5_MoeForCausalLM Exaone4ForCausalLM ExaoneForCausalLM ExaoneMoEForCausalLM FalconH1ForCausalLM Gemma2ForCausalLM
    Gemma3ForCausalLM Gemma4ForCausalLM GemmaForCausalLM Glm4ForCausalLM Glm4MoeForCausalLM Glm4MoeLiteForCausalLM
    GlmMoeDsaForCausalLM GptOssForCausalLM GraniteForCausalLM GraniteMoeForCausalLM GraniteMoeHybridForCausalLM
    GraniteMoeSharedForCausalLM HYV3ForCausalLM HyperCLOVAXForCausalLM InternLM2ForCausalLM InternLM3ForCausalLM
    JambaForCausalLM Lfm2ForCausalLM Lfm2MoeForCausalLM Llama4ForCausalLM LlamaForCausalLM LongcatFlashForCausalLM
    MiMoForCausalLM MiniCPM3ForCausalLM MiniCPMForCausalLM MiniMaxM2ForCausalLM Ministral3ForCausalLM MistralForCausalLM
    MixtralForCausalLM NemotronForCausalLM NemotronHForCausalLM OPTForCausalLM OlmoHybridForCausalLM OlmoeForCausalLM
    PanguEmbeddedForCausalLM Phi3ForCausalLM PhiMoEForCausalLM Plamo3ForCausalLM Qwen2ForCausalLM Qwen2MoeForCausalLM
    Qwen3ForCausalLM Qwen3MoeForCausalLM Qwen3NextForCausalLM Qwen3_5ForCausalLM Qwen3_5MoeForCausalLM SolarForCausalLM
    TeleChat2ForCausalLM""".split()  # noqa: SIM905
)
# Those of them that take LoRA on embedding and head too (`embedding_modules`).
_WITH_EMBEDDINGS = frozenset(
    """ApertusForCausalLM DeciLMForCausalLM Ernie4_5ForCausalLM Exaone4ForCausalLM FalconH1ForCausalLM GraniteForCausalLM
    GraniteMoeForCausalLM GraniteMoeHybridForCausalLM GraniteMoeSharedForCausalLM InternLM3ForCausalLM JambaForCausalLM
    Lfm2ForCausalLM Lfm2MoeForCausalLM Llama4ForCausalLM LlamaForCausalLM MiniCPM3ForCausalLM MiniCPMForCausalLM
    MixtralForCausalLM NemotronForCausalLM NemotronHForCausalLM Phi3ForCausalLM PhiMoEForCausalLM Qwen3ForCausalLM
    Qwen3MoeForCausalLM Qwen3_5ForCausalLM Qwen3_5MoeForCausalLM SolarForCausalLM TeleChat2ForCausalLM""".split()  # noqa: SIM905
)
# Other ways of starting change the base's weights when PEFT loads the adapter.
_STARTS = (None, True, False, "gaussian", "eva", "orthogonal", "mica", "lora_ga")
# Settings that vLLM refuses wherever they are set.
_REFUSED = {
    "use_dora": "DoRA",
    "lora_bias": "biases of LoRA (lora_bias)",
    "alora_invocation_tokens": "activated LoRA",
    "layer_replication": "layer_replication",
    "use_bdlora": "block-diagonal LoRA",
    "use_qalora": "QALoRA",
    "trainable_token_indices": "single trained tokens (trainable_token_indices)",
}
_MERGE = "Merge it: `qlora merge ADAPTER -o DIR`, then `qlora serve DIR`."


def vllm_checks(source: AdapterSource) -> list[ServingCheck]:
    """Each thing that vLLM would refuse the adapter for, passed or not."""
    facts = source.facts
    return [
        _rank(facts),
        _check("whole modules", not _whole_modules(facts), "No whole module was trained.", _whole_modules(facts)),
        _check("kinds of LoRA", not _refused(facts), "It is a plain LoRA.", "; ".join(_refused(facts))),
        _vocabulary(source),
        _architecture(source),
    ]


def largest_rank_option(facts: AdapterFacts) -> int:
    """The smallest value of --max-lora-rank that takes the adapter; that option takes a few values only."""
    return next((rank for rank in ALLOWED_RANKS if rank >= facts.largest_rank), ALLOWED_RANKS[-1])


def _rank(facts: AdapterFacts) -> ServingCheck:
    highest, rank = ALLOWED_RANKS[-1], facts.largest_rank
    good = f"Rank {rank} is served with --max-lora-rank {largest_rank_option(facts)}."
    return _check("rank", rank <= highest, good, f"Rank {rank} is above the {highest} that vLLM takes.")


def _whole_modules(facts: AdapterFacts) -> str:
    names = facts.settings.get("modules_to_save") or sorted(facts.replaced)
    return f"vLLM takes no modules that were trained whole: {', '.join(map(str, names))[:200]}." if names else ""


def _refused(facts: AdapterFacts) -> list[str]:
    settings = facts.settings
    found = [f"vLLM does not take {words}" for name, words in _REFUSED.items() if settings.get(name)]
    if settings.get("bias") not in (None, "none"):
        found.append("vLLM does not take trained biases")
    if settings.get("init_lora_weights") not in _STARTS:
        found.append(f"vLLM does not take adapters that began as {str(settings['init_lora_weights'])[:40]}")
    return found


def _vocabulary(source: AdapterSource) -> ServingCheck:
    """Added tokens come with resized embeddings, which are saved with the adapter."""
    resized = [name for name in (*source.facts.replaced, *source.facts.tokens) if _is_vocabulary(name)]
    lowered = [module for module, pair in source.facts.pairs.items() if pair.embedding or module.endswith("lm_head")]
    if lowered and _WITH_EMBEDDINGS.intersection(_architectures(source)):
        lowered = []
    bad = f"vLLM does not take what was trained of the vocabulary: {', '.join([*resized, *lowered])[:200]}."
    return _check("vocabulary", not (resized or lowered), "No token was added, no embedding resized.", bad)


def _is_vocabulary(name: str) -> bool:
    return any(word in name for word in ("embed", "wte", "lm_head", "output_layer"))


def _architecture(source: AdapterSource) -> ServingCheck:
    names = _architectures(source)
    if not names:
        return _check(
            "architecture", True, "The base is not on this machine: whether vLLM takes LoRA on it is not known."
        )
    known, shown = bool(_ARCHITECTURES.intersection(names)), ", ".join(names)[:100]
    bad = f"vLLM {READ_VERSION} names no LoRA support for {shown}."
    return _check("architecture", known, f"vLLM takes LoRA on {shown}.", bad)


def _architectures(source: AdapterSource) -> list[str]:
    if source.base is None:
        return []
    return list(map(str, read_model_config(source.base).get("architectures") or ["a model that names none"]))


def _check(name: str, passed: bool, good: str, bad: str = "") -> ServingCheck:
    return ServingCheck(name=name, passed=passed, message=good if passed else bad, next_step=None if passed else _MERGE)


def failed(checks: list[ServingCheck]) -> Iterator[ServingCheck]:
    """Those that stand in the way."""
    return (check for check in checks if not check.passed)
