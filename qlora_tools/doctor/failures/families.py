"""Whole families of messages, told by the kind of error and what it names; by the id of the failure.

They stand beside the exact messages of the other modules, which count for more where both are found.
"""

from .entry import Sign, certain, likely, matching, possible

_REFUSED = (
    r"(?:must (?:be|provide|specify|set|have|contain|pass)|should be|needs? to be|is required|invalid"
    r"|(?:not|isn'?t) (?:a )?valid"
    r"|at least one|(?:only|can only) be one of|not allowed|cannot (?:be )?(?:both|used?)|can'?t use|incompatible|unsupported"
    r"|not supported|unknown|unrecogni[sz]ed|expected one of|not implemented|please (?:set|specify|provide|use|pass))"
)
_CONFIG_KEY = (
    r"keyerror: ['\"](?:num_\w+|hidden_\w+|n_\w+|vocab_size|rope\w*|model_type|architectures|intermediate_size|head_dim"
    r"|max_position\w*|torch_dtype|dtype|layer_types|attn\w*|\w*_config|factor|type|default)['\"]"
)
_BYTES_OF_QUANTISED = (
    r"['\"][\w.]+\.(?:absmax|quant_map|quant_state[\w.]*|nested_\w+|scb|weight_format|qweight|qzeros)\b"
)
_PLACES = r"(?:cpu|cuda(?::\d)?|meta|mps|xpu)"

FAMILY_SIGNS: dict[str, tuple[Sign, ...]] = {
    "gpu_out_of_memory": (
        *matching(
            "out of memory",
            r"(?:cuda|gpu|vram|device)\b.{0,40}out of memory|out of memory.{0,40}(?:cuda|gpu|vram|device)",
            "likely",
        ),
        *possible("out of memory"),
    ),
    "processes_out_of_step": (
        *matching("hung", r"\bhung\b", "possible"),
        *matching("stuck", r"(?:gets?|got|is|keeps?|stays?|be) stuck\b", "possible"),
        *matching("freez", r"\b(?:freez\w+|frozen at)\b.{0,40}(?:step|train|gpu|process|load)", "possible"),
        *possible("deadlock"),
    ),
    "batch_and_labels_differ": (
        *matching("shift_l", r"shift_l(?:abels|ogits).{0,300}(?:is invalid for input of size|shape|size)", "certain"),
    ),
    "bitsandbytes_missing": (
        *matching("load_in_", r"load_in_[48]_?bit.{0,160}(?:import ?error|dependency|not work)", "likely"),
    ),
    "architecture_unknown": (
        *likely(
            "keyerror", near=("model_type_to_module_name", "configuration_auto.py", "config_mapping[", "self._mapping")
        ),
        *matching("keyerror", _CONFIG_KEY, "possible"),
        *matching(
            "not supported",
            r"(?:model|architecture)s? ?(?:type |class )?['\"\[]{0,2}[\w.\-]{3,60}['\"\]]{0,2} (?:is |are )?"
            r"(?:currently )?not supported",
            "possible",
        ),
    ),
    "template_fails": (
        *matching(
            "jinja",
            r"(?:error|exception|fail\w*).{0,40}\bjinja|\bjinja.{0,60}(?:error|exception|fail|not present)",
            "likely",
        ),
    ),
    "weights_do_not_fit": (
        *likely("unexpected weight: ", "unexpected weight name"),
        *matching(
            "keyerror", r"keyerror: ['\"][\w.]+\.(?:weight|bias|alpha|lora_\w+|gamma|beta|inv_freq)['\"]", "likely"
        ),
        *matching("size mismatch", r"(?:tensor )?size mismatch for [\w.]+", "likely"),
        *matching(
            "keys",
            r"(?:missing|unexpected|unmatched) keys?\b.{0,40}(?:state_?dict|checkpoint|model|weights)",
            "possible",
        ),
    ),
    "quantised_already": (
        *matching("layers.", rf"(?:error|keyerror).{{0,40}}(?<!tensor ){_BYTES_OF_QUANTISED}"),
        *matching("keyerror", rf"keyerror: {_BYTES_OF_QUANTISED}"),
    ),
    "vocabulary_resized": (
        *matching("size of tensor a", r"size of tensor a \(\d{5,6}\) must match the size of tensor b \(\d{5,6}\)"),
        *matching(
            "size mismatch for",
            r"size mismatch for [\w.]*(?:embed_tokens|lm_head|wte|word_embeddings|embed_in|embed_out)\b",
        ),
        *likely("resize_token_embeddings", "vocab size of the model", "does not match the vocab"),
    ),
    "adapter_without_effect": (
        *certain("lora key not loaded", "lora keys not loaded"),
        *matching("reflect", r"(?:not|n't|no way) reflect\w*.{0,40}(?:lora|adapter|fine-?tun)", "likely"),
        *matching("effect", r"(?:lora|adapter)\w* (?:loses?|lost|has lost) (?:its |the |all )?effect", "likely"),
        *matching("ignor", r"ignor\w+ (?:the |my |our )?(?:[\w\-]+ )?(?:adapter|lora)\b", "likely"),
        *matching("missing keys", r"adapter weights .{0,80}(?:missing|unexpected) keys"),
        *matching(
            "keys",
            r"(?:missing|unexpected|unmatched) (?:adapter |lora )keys?|keys? .{0,60}lora_[ab]\b.{0,40}missing",
            "likely",
        ),
        *matching("lora_a", r"missing keys.{0,300}lora_a", "likely"),
    ),
    "adapter_not_found": (
        *matching(
            "contain",
            r"(?:not|n't) (?:contain|have) (?:a |any |the )?(?:lora|adapter|peft) (?:weight|checkpoint|config|file)",
        ),
        *matching(
            "find", r"(?:can ?not|can'?t|could ?n[o']t|unable to|failed to) find .{0,40}(?:lora|adapter)", "likely"
        ),
    ),
    "adapter_of_another_base": (*likely("invalid lora checkpoint", "invalid lora file", "invalid adapter"),),
    "gguf_conversion_failed": (
        *likely(
            "error", near=("save_pretrained_gguf(", "save_to_gguf", "push_to_hub_gguf(", "unsloth_zoo/llama_cpp.py")
        ),
        *matching(
            "failed to",
            r"failed to (?:load|open|read|quantize|create) (?:the )?(?:model|gguf|llama|context|vocab)\w*",
            "likely",
        ),
        *matching(
            "gguf", r"gguf.{0,80}(?:cannot|can'?t|won'?t|unable|not) (?:be )?(?:load|open|run|read|import)", "likely"
        ),
        *matching(
            "tensor", r"missing tensor|tensor '[\w.]+' (?:not found|has wrong shape)|wrong number of tensors", "likely"
        ),
        *likely(
            "error: ", near=("ollama create", "converting model", "converting adapter", "gathering model components")
        ),
    ),
    "model_files_missing": (
        *matching(
            "config.json",
            r"(?<!adapter_)config\.json\W{0,4} (?:does not exist|is missing|not found|could not be found|was not)",
        ),
    ),
    "yaml_or_arguments_wrong": (
        *matching("valueerror", rf"valueerror:? .{{0,160}}{_REFUSED}", "possible"),
        *matching("assertionerror", rf"assertionerror: .{{0,160}}{_REFUSED}", "possible"),
        *matching("notimplementederror", rf"notimplementederror: .{{0,160}}{_REFUSED}", "possible"),
        *matching("load_in_", r"load_in_[48]bit.{0,80}(?:quantization_config|kwarg)", "likely"),
        *matching("must provide", r"must (?:provide|specify|set) (?:at least )?one of", "likely"),
        *matching(
            "error:",
            r"\berror: (?:the )?(?:argument|option|unrecognized|unexpected|invalid (?:value|choice))",
            "likely",
        ),
    ),
    "never_stops": (
        *matching(
            "stop",
            r"(?:model|answers?|outputs?|generat\w+|repeat\w*|respon\w+|text).{0,80}(?:without|not|never|n't|cannot)"
            r"(?:\w+ | ){0,3}stop(?:s|ping)?\b",
        ),
        *matching(
            "end",
            r"(?:results?|outputs?|answers?|respon\w+|it|generat\w+) .{0,30}(?:never|not|n'?t|without) end(?:s|ing)?\b",
            "likely",
        ),
        *matching(
            "generat",
            r"(?:keeps?|infinite\w*|endless\w*|unstoppabl\w+).{0,20}(?:generat|talk|repeat|produc|writ|output)",
            "likely",
        ),
    ),
    "text_expected": (
        *matching(
            "must be", r"(?:inputs?|text\w*|examples?|prompts?) must be .{0,30}\b(?:str|string|list\[str\])", "likely"
        ),
    ),
    "module_missing": (
        *likely("is not a supported wheel on this platform", "error running pip", "subprocess-exited-with-error"),
        *matching("error", r"\berror: .{0,80}(?:wheel|requirement|distribution|setup\.py|pyproject)", "likely"),
    ),
    "gpu_assert": (*likely("device assert", "device-side"),),
    "no_gradient": (
        *certain("tensors does not require grad"),
        *matching("grad", r"(?:does not|doesn't|do not|don't) require[s_ ]*grad", "likely"),
    ),
    "host_out_of_memory": (
        *matching(
            "kernel", r"kernel (?:is |keeps |has |was |just )?(?:dying|dies|died|dead|crash\w*|restart\w*)", "likely"
        ),
        *matching("session", r"session (?:is |keeps |has )?(?:crash\w*|restart\w*)", "possible"),
    ),
    "loss_does_not_fall": (
        *matching("converge", r"\bloss\b.{0,60}converge\w* (?:to|at|around) (?:about |around )?\d", "likely"),
        *matching("learn", r"(?:not|n't|never|isn't|without) (?:really |actually )?learn(?:s|ing|ed)?\b", "likely"),
    ),
    "zero3_with_quantisation": (
        *matching(
            "size of tensor",
            r"size of tensor [ab] \(0\) must match|size of tensor a \(\d+\) must match the size of tensor b \(0\)",
        ),
    ),
    "fsdp_needs_one_dtype": (
        *certain("integer parameters are unsupported"),
        *matching("fsdp", r"fsdp.{0,200}(?:dtype|integer)", "possible"),
    ),
    "shapes_differ": (
        *matching(
            "runtimeerror",
            r"runtimeerror: .{0,160}(?:\bsizes?\b|shapes?\b|dimensions?\b|reshape|broadcast|\bview\b|expand)",
            "possible",
        ),
        *matching("valueerror", r"valueerror: .{0,120}(?:shapes?\b|dimensions?\b|\bdims?\b|broadcast)", "possible"),
        *matching(
            "indexerror",
            r"indexerror: (?:the shape|tensors? used|too many indices|dimension|index \d+ is out of bounds)",
            "possible",
        ),
    ),
    "tensors_on_several_devices": (
        *matching(
            "device",
            rf"(?:runtime|value|assertion)error: .{{0,160}}{_PLACES}\b.{{0,60}}(?:and|but|!=|instead|with).{{0,60}}"
            rf"{_PLACES}\b",
            "likely",
        ),
        *matching(
            "cuda",
            rf"(?:runtime|value|assertion)error: .{{0,160}}{_PLACES}\b.{{0,60}}(?:but|!=|instead).{{0,60}}{_PLACES}\b",
            "possible",
        ),
    ),
    "dtypes_differ": (
        *matching(
            "error",
            r"(?:runtime|type|value)error: .{0,120}(?:dtype|scalar type|\bb?float(?:16|32)|\bhalf\b).{0,80}(?:but|got|!="
            r"|same|match|instead|expected|not implemented)",
            "possible",
        ),
    ),
    "libraries_disagree": (
        *matching(
            "install", r"please (?:re)?install (?:it|the latest|transformers|peft|trl|accelerate|git\+)", "likely"
        ),
        *matching(
            "pip install", r"pip install (?:-u |--upgrade )?(?:git\+https|transformers|peft|trl|accelerate)", "possible"
        ),
        *possible("cannot import name", "no module named 'transformers.", "is not defined"),
        *likely("please upgrade your", "try upgrading", "update your version of"),
        *matching(
            "unsloth",
            r"unsloth: .{0,120}(?:not supported|please (?:update|upgrade|report|file)|out of date)",
            "possible",
        ),
        *matching("typeerror", r"typeerror: [\w.]+\(\) (?:takes|missing|got)", "possible"),
    ),
    "resume_does_not_fit": (
        *matching(
            "checkpoint",
            r"(?:continu|resum|restart)\w* .{0,60}checkpoint.{0,160}(?:error|fail|not found|crash|wrong)",
            "likely",
        ),
    ),
    "worker_failed": (
        *likely("childfailederror", "root cause (first observed failure)", "subprocess.calledprocesserror"),
    ),
    "file_missing": (
        *matching(
            "does not exist",
            r"(?:file|path|folder|directory)\b.{0,120}(?:does not exist|not found|doesn'?t exist)",
            "possible",
        ),
    ),
    "hub_not_reached": (*possible("connectionerror", "timeouterror", "httperror", "connection timed out"),),
    "data_unreadable": (*possible("datasets.exceptions", "datasets.builder", "pyarrow."),),
}
