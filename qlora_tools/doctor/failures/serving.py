"""After training: servers, GGUF, Ollama."""

from .changes import set_to
from .entry import Failure, certain, likely, matching, possible

FAILURES = (
    Failure(
        "rank_over_server_limit",
        "The adapter's rank is over the server's limit",
        "vLLM reserves room for rank 16 unless told otherwise.",
        "Start the server with --max-lora-rank of at least the adapter's rank, or merge.",
        matching("max_lora_rank", r"lora rank \d+ is greater than max_lora_rank")
        + certain("is greater than max_lora_rank", "exceeds the max_lora_rank"),
        commands=("vllm serve BASE --enable-lora --max-lora-rank 64 --lora-modules mine=ADAPTER",),
    ),
    Failure(
        "adapter_refused_by_server",
        "The server does not take this adapter",
        "vLLM takes A and B of linear layers only: modules_to_save, DoRA and some target modules are refused.",
        "Merge the adapter and serve the model, or train without modules_to_save and use_dora.",
        certain(
            "is unsupported lora weight",
            "only supports modules_to_save being none",
            "does not yet support dora",
            "does not support lora",
            "expected target modules in",
            "please verify that the loaded lora module is correct",
            "does not support rslora",
            "call to add_lora method failed",
            "unsupported lora weight",
        )
        + matching(
            "lora", r"(?:loading lora|lora adapter|add_lora) .{0,120}(?:failed|not supported|unsupported)", "likely"
        ),
        set_to(lora__modules_to_save=[], lora__use_dora=False),
        ("qlora merge OUTPUT -o MERGED",),
    ),
    Failure(
        "gguf_from_quantised",
        "A 4-bit model was given to the GGUF converter",
        "It reads plain weights; tensors of bitsandbytes (absmax, quant_map) have no place there.",
        "Merge into the 16-bit base and convert that.",
        matching(
            "can not map tensor", r"can not map tensor '[\w.]*(?:absmax|quant_map|quant_state|nested_|bitsandbytes|scb)"
        )
        + matching("absmax", r"(?:keyerror|valueerror|unexpected).{0,80}(?:absmax|quant_state)", "likely")
        + matching("quant method", r"quant method is not yet supported: '?bitsandbytes"),
        commands=("qlora merge OUTPUT -o MERGED", "python convert_hf_to_gguf.py MERGED --outfile model.gguf"),
        more="shipping",
    ),
    Failure(
        "gguf_tokenizer_unknown",
        "The GGUF converter does not know this tokenizer",
        "It recognises tokenizers by a hash of how they split a text; added tokens or a newer model change it.",
        "Update llama.cpp; else copy the tokenizer files of the original base over those of the merged model.",
        certain(
            "bpe pre-tokenizer was not recognized",
            "unknown pre-tokenizer type",
            "get_vocab_base_pre",
            "missing pre-tokenizer type",
            "gguf_init_from_file: failed to read key-value",
        )
        + matching(
            "vocab",
            r"(?:vocab(?:ulary)? size mismatch|assert max\(tokenizer\.vocab\.values\(\)\) < "
            r"vocab_size|vocab size mismatch \(model has)",
        )
        + matching("file not found", r"file not found: .{0,120}tokenizer\.model"),
        commands=("git -C llama.cpp pull", "pip install --upgrade gguf"),
    ),
    Failure(
        "gguf_conversion_failed",
        "The model cannot be converted or read as GGUF",
        "The architecture is newer than this llama.cpp (or Ollama), or the folder holds an adapter and no merged model.",
        "Merge first; update llama.cpp or Ollama.",
        certain(
            "unknown model architecture",
            "can not map tensor",
            "unsupported architecture",
            "error loading model architecture",
            "error loading model vocabulary",
            "is not supported yet by llama.cpp",
            "invalid magic characters",
            "failed to load model from file",
            "done_getting_tensors: wrong number of tensors",
            "unable to load model",
            "missing tensor '",
        )
        + matching(
            "hf-to-gguf",
            r"(?:hf-to-gguf|convert_hf_to_gguf|convert-hf-to-gguf).{0,200}(?:not supported|error|failed)",
            "likely",
        )
        + matching(
            "not supported",
            r"(?:notimplementederror: )?(?:model |architecture )['\"]?\w+['\"]? (?:is )?not supported",
            "likely",
        )
        + likely("error loading model", "failed compiling llama.cpp", "failed to quantize", "quantization failed for"),
        commands=("qlora merge OUTPUT -o MERGED", "git -C llama.cpp pull"),
    ),
    Failure(
        "context_too_long_for_server",
        "The prompt is longer than the server's context",
        "The server was started with a shorter context than prompt and answer need.",
        "Shorten the prompt, or raise the server's context.",
        matching(
            "context",
            r"(?:this model'?s maximum context length|requested tokens .{0,40} exceed context window"
            r"|exceeds? the (?:available )?context (?:size|window))",
        )
        + possible("is greater than the derived max_model_len"),
        commands=("vllm serve MODEL --max-model-len 8192",),
    ),
    Failure(
        "model_refused_by_server",
        "The server cannot load this model",
        "Its version does not know the architecture, the quantisation or the names of the weights.",
        "Serve the merged 16-bit model, and update the server; it says which architectures it knows.",
        certain("not supported by vllm", "is not supported for quantization method")
        + likely("engine core initialization failed", "engine process failed to start"),
        commands=("qlora merge OUTPUT -o MERGED", "pip install --upgrade vllm"),
        follows=True,
    ),
)
