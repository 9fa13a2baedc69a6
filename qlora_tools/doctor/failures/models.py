"""The base model: getting it, reading it, and what it can do."""

from .entry import Failure, certain, likely, matching, possible

FAILURES = (
    Failure(
        "model_gated",
        "The model is gated and the account or token has no access",
        "The Hub wants a token of an account that accepted the model's licence.",
        "Accept the licence on the model's page with the same account, then log in or set HF_TOKEN.",
        certain(
            "gated repo",
            "gatedrepoerror",
            "is restricted and you are not in the authorized list",
            "you must have access to it and be authenticated",
            "your request to access model",
            "is awaiting a review from the repo authors",
            "awaiting a review",
            "401 client error: unauthorized for url: https://huggingface.co",
            "401 unauthorized",
            "localtokennotfounderror",
            "token is required (`token=true`)",
            "token is required (token=true)",
            "user access token is expired",
            "invalid user token",
            "invalid username or password",
            "no token found",
        )
        + matching("gated", r"\bis gated\b|gated model")
        + matching("403", r"403 (?:client error|forbidden).{0,160}(?:huggingface|hf\.co|gated|token)")
        + matching(
            "token",
            r"(?:token you provided|provided token|your token|access token).{0,60}(?:invalid"
            r"|not valid|no permission|does not|not have)",
        ),
        commands=("hf auth login", "hf auth whoami"),
    ),
    Failure(
        "model_not_found",
        "No model of that name was found",
        "The name is neither a Hub id that exists nor a local directory; a private "
        "model without a token looks the same.",
        "Check the spelling; write ./ before a local directory; log in for a private model.",
        certain(
            "is not a local folder and is not a valid model identifier",
            "repositorynotfounderror",
            "repository not found for url",
            "revisionnotfounderror",
            "repo id must be in the form",
            "repo id must use alphanumeric",
            "hfvalidationerror",
            "incorrect path_or_model_id",
            "is not a hub id, which has the form owner/name",
            "the catalogue has no model",
            "if you were trying to load it from",
            "is not a valid git identifier",
        )
        + matching("can't load", r"can'?t load (?:the )?(?:tokenizer|config\w*|model|feature extractor) for")
        + matching("404", r"404 client error.{0,160}(?:huggingface|hf\.co|entry not found|repository)")
        + matching(
            "model directory", r"the model directory .{0,200}(?:does not exist|is not there|is a file|is missing)"
        ),
    ),
    Failure(
        "hub_not_reached",
        "The Hub could not be reached",
        "There is no network, a proxy or firewall stands between, the Hub limits requests, or offline mode is on.",
        "Check the network; fetch the model elsewhere and give its directory; unset HF_HUB_OFFLINE.",
        certain(
            "we couldn't connect to 'https://huggingface.co'",
            "couldn't connect to the hugging face hub",
            "localentrynotfounderror",
            "offlinemodeisenabled",
            "offline mode is enabled",
            "cannot find the requested files in the local cache",
            "cannot find the requested files in the disk cache",
            "temporary failure in name resolution",
            "name or service not known",
            "certificate_verify_failed",
            "max retries exceeded with url",
            "429 client error",
            "cannot be fetched from the hub",
            "network is unreachable",
            "too many requests for url",
            "error while uploading",
        )
        + matching("timed out", r"(?:readtimeout|connecttimeout|httpsconnectionpool).{0,120}timed out")
        + matching("error", r"\b(?:5\d\d server error|403 client error|404 client error)", "possible")
        + matching(
            "error",
            r"\b(?:proxyerror|sslerror|newconnectionerror|connectionerror"
            r"|chunkedencodingerror|incompleteread|connecterror)\b",
            "likely",
        ),
        commands=(
            "curl -I https://huggingface.co",
            "unset HF_HUB_OFFLINE TRANSFORMERS_OFFLINE",
            "hf download OWNER/MODEL --local-dir DIR",
        ),
    ),
    Failure(
        "weights_damaged",
        "A file of weights is damaged or no such file",
        "A download or copy was cut off, the disk filled up while saving, or a Git "
        "LFS pointer lies in place of the file.",
        "Delete the file and fetch it again; a file of a few hundred bytes is a pointer: run git lfs pull.",
        certain(
            "error while deserializing header",
            "headertoolarge",
            "invalidheaderdeserialization",
            "metadataincompletebuffer",
            "incomplete metadata",
            "invalid header deserialization",
            "file not fully covered",
            "pytorchstreamreader failed",
            "failed finding central directory",
            "invalid load key",
            "unable to load weights from pytorch checkpoint",
            "unable to load weights from",
            "consistency check failed",
            "ran out of input",
            "git-lfs.github.com/spec",
            "checksum mismatch",
            "headertoosmall",
            "is not a valid index of shards",
            "magic number mismatch",
            "invalid magic",
            "unable to load vocabulary from",
        )
        + matching("lacks", r"the model directory .{0,200} lacks \d+ of \d+ shards")
        + matching("do not fit its config.json", r"the weights of .{0,200} do not fit its config\.json")
        + matching(
            "corrupt",
            r"(?:file|model|tokenizer|checkpoint|weights|download)\w*.{0,60}corrupt"
            r"|corrupt\w*.{0,40}(?:file|model|tokenizer|checkpoint|weights)",
            "likely",
        )
        + matching("tensor", r"tensor .{0,80} data is not within the file bounds|corrupted or incomplete"),
        commands=("hf download OWNER/MODEL --local-dir DIR --force-download", "git lfs pull"),
    ),
    Failure(
        "model_files_missing",
        "The model's directory lacks a file",
        "It holds an adapter only, another format, or an unfinished download.",
        "Give the directory that holds config.json and *.safetensors; for an adapter give base and adapter apart.",
        certain(
            "does not appear to have a file named",
            "error no file named",
            "has no model.safetensors",
            "has no config.json",
            "has no tokenizer (tokenizer.json",
            "should have a `model_type` key in its config.json",
            "no such file or directory: 'config.json'",
        )
        + matching("unrecognized model in", r"unrecognized model in"),
    ),
    Failure(
        "architecture_unknown",
        "transformers is too old for this model",
        "The model's type came after the installed version, or it is no causal language model.",
        "Upgrade transformers; choose a text-only decoder.",
        certain(
            "does not recognize this architecture",
            "`rope_scaling` must be a dictionary with two fields",
            "rope_scaling` must be a dictionary with with two fields",
            "unrecognized configuration class",
            "qlora-tools trains causal language models only",
            "requires `transformers>=",
            "rope_parameters",
            "unknown rope scaling type",
            "keyerror: 'rope_type'",
        )
        + matching("tokenizer class", r"tokenizer class \w+ does not exist or is not currently imported")
        + matching(
            "keyerror",
            r"keyerror: ['\"](?:qwen\w*|gemma\w*|llama\w*|mistral\w*|mixtral|phi\w*|glm\w*|chatglm\w*|deepseek\w*"
            r"|cohere\w*|olmo\w*|granite\w*|exaone\w*|minicpm\w*|smollm\w*|gpt_oss|ministral\w*"
            r"|falcon\w*|internlm\w*|baichuan\w*|yi)['\"]",
        )
        + matching("the model type", r"the checkpoint you are trying to load has model type"),
        commands=("pip install --upgrade transformers",),
    ),
    Failure(
        "model_brings_code",
        "The model wants to run code of its own",
        "Its repository holds Python that would run on this machine; qlora-tools never runs such code.",
        "Choose a model of the same family that transformers knows, often one whose name ends in -hf.",
        certain(
            "trust_remote_code=true",
            "contains custom code which must be executed",
            "requires you to execute the configuration file",
            "requires you to execute the modeling file",
        ),
    ),
    Failure(
        "pickle_refused",
        "torch refuses a pickled file",
        "Since torch 2.6 files are read as plain weights only, because a pickle can run code.",
        "Use safetensors; convert a .bin of a source you trust once, or resume only what you wrote yourself.",
        certain(
            "weights only load failed",
            "weightsunpickler error",
            "cve-2025-32434",
            "due to a serious vulnerability issue in `torch.load`",
            "upgrade torch to at least v2.6",
            "unsupported global: global",
        ),
        commands=("pip install --upgrade torch transformers",),
    ),
    Failure(
        "weights_left_random",
        "Some weights were not in the files and are random",
        "The class does not fit the checkpoint, or names changed: those layers start from chance.",
        "Load with the class that config.json names; check the names in the warning.",
        possible("you should probably train this model on a down-stream task")
        + likely(
            "were not initialized from the model checkpoint",
            "were newly initialized because the shapes did not match",
        )
        + possible("were not used when initializing"),
    ),
    Failure(
        "vocabulary_resized",
        "Embedding or head have another size than the checkpoint",
        "Tokens were added before training, and the base here has its original size (or the other way round).",
        "Resize the embeddings to the tokenizer saved with the adapter before it is loaded, and train them: "
        "lora.modules_to_save.",
        matching(
            "size mismatch for",
            r"size mismatch for [\w.]*(?:embed_tokens|lm_head|wte|word_embeddings|embed_in"
            r"|embed_out|shared)[\w.]*: copying a param",
        ),
        more="data",
    ),
)
