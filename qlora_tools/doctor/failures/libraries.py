"""Libraries that are missing, broken, or unfit for each other."""

from .entry import Failure, certain, likely, matching, possible

_OURS = (
    r"(?:transformers|peft|trl|accelerate|huggingface_hub|tokenizers|datasets|diffusers"
    r"|unsloth\w*|torch|torchvision|sentence_transformers|optimum|vllm|deepspeed|llamafactory|axolotl|llmtuner|swift)"
)
_TRAINERS = (
    r"(?:\w*trainer|\w*trainingarguments|(?!lora|peft|ia3|prompt|prefix|ada)\w*config|\w*collator\w*"
    r"|compute_loss|_?prepare_\w+|training_step|log|forward|accelerator|dataloaderconfiguration"
    r"|_save_checkpoint|\w*optimizer|\w*cache|from_pretrained|create_optimizer|evaluate)"
)

FAILURES = (
    Failure(
        "bitsandbytes_without_cuda",
        "bitsandbytes found no CUDA library that fits",
        "It ships one native library for each CUDA version and found none for this "
        "torch, or cannot find libcudart.so: a CPU "
        "torch, an old bitsandbytes, or CUDA outside the search path.",
        "Upgrade bitsandbytes, which brings its CUDA libraries, beside a CUDA build of "
        "torch; then run python -m bitsandbytes.",
        certain(
            "cuda setup failed despite",
            "was compiled without gpu support",
            "no libcudart.so found",
            "libcudart.so not found",
            "cannot find libcudart",
            "cuda_setup: warning! libcudart",
            "configured cuda binary not found",
            "required library version not found",
            "library load error",
            "bitsandbytes native library",
            "cuda is required but not available for bitsandbytes",
            "available in cpu-only version of bitsandbytes",
            "the installed version of bitsandbytes (<",
            "libbitsandbytes",
            "bitsandbytes library load error",
            "cuda_setup/main.py",
            "cuda setup: something unexpected happened",
            "argument of type 'windowspath' is not iterable",
        )
        + matching(
            "nonetype",
            r"'?nonetype'? object has no attribute '(?:c(?:get|quantize|dequantize|adam|lion|gemm|igemm|percentile"
            r"|transform|prefetch|cuda)\w*|cudevicegetcount|split)'",
        )
        + matching(
            "undefined symbol: c", r"undefined symbol: c(?:get|quantize|dequantize|adam|lion|gemm|igemm|extract)\w+"
        ),
        commands=("pip install --upgrade bitsandbytes", "python -m bitsandbytes"),
    ),
    Failure(
        "bitsandbytes_missing",
        "bitsandbytes is missing or too old",
        "4-bit and 8-bit loading needs bitsandbytes (and accelerate), and this Python has none or an old one.",
        "Install it into the very Python that runs the script, then restart the notebook's kernel.",
        certain(
            "no package metadata was found for bitsandbytes",
            "using `bitsandbytes` 8-bit quantization requires",
            "using `bitsandbytes` 4-bit quantization requires",
            "using `load_in_8bit=true` requires accelerate",
            "using `low_cpu_mem_usage=true` or a `device_map` requires accelerate",
            "requires the latest version of bitsandbytes",
            "pip install -u bitsandbytes",
            "pip install -i https://pypi.org/simple/ bitsandbytes",
            "you need to install bitsandbytes",
            "4 bit quantization requires bitsandbytes",
            "no module named 'bitsandbytes'",
            "from 'bitsandbytes",
            "requires accelerate: `pip install",
        )
        + matching("params4bit", r"params4bit.{0,40}(?:unexpected keyword|has no attribute)"),
        commands=("pip install --upgrade bitsandbytes accelerate",),
    ),
    Failure(
        "numpy_2",
        "A library was compiled for NumPy 1",
        "NumPy 2 changed its binary interface and removed old names; an older torch or extension cannot use it.",
        "Upgrade the library it names, or hold NumPy below 2.",
        certain(
            "compiled using numpy 1.x cannot be run in numpy 2",
            "numpy.dtype size changed",
            "_array_api not found",
            "numpy.core.multiarray failed to import",
            "numpy is not available",
        )
        + matching(
            "numpy",
            r"module 'numpy' has no attribute|no module named 'numpy\._core|`?np\.\w+`? was (?:a deprecated|removed)",
        ),
        commands=("pip install 'numpy<2'", "pip install --upgrade torch"),
    ),
    Failure(
        "triton_does_not_fit",
        "triton is missing, does not fit, or cannot compile",
        "It is pinned to one torch, needs a C compiler and Python's headers, and "
        "old bitsandbytes imports parts it lost.",
        "Reinstall torch, which brings its triton; install gcc and python3-dev; "
        "upgrade bitsandbytes to 0.43.1 or newer.",
        certain(
            "no module named 'triton",
            "cannot find a working triton installation",
            "failed to find c compiler",
            "python.h: no such file or directory",
            "triton only support cuda",
            "tritonmissing",
            "ptxas",
            "triton error [cuda]",
        )
        + matching(
            "triton",
            r"cannot import name .{0,60}from (?:partially initialized module )?'?triton|from 'triton"
            r"|triton\.(?:compiler|runtime)\.errors|outofresources",
        ),
        commands=("pip install --upgrade bitsandbytes", "apt-get install -y gcc python3-dev"),
    ),
    Failure(
        "torchao_does_not_fit",
        "torchao does not fit peft or torch",
        "peft and transformers look at torchao as soon as it is installed, even where nothing uses it.",
        "Upgrade it, or remove it.",
        certain("incompatible version of torchao", "torchao is not", "torchao version")
        + matching(
            "torchao", r"(?:cannot import name|no module named|has no attribute|undefined symbol).{0,120}torchao"
        ),
        commands=("pip uninstall -y torchao", "pip install --upgrade torchao"),
    ),
    Failure(
        "argument_removed",
        "The script was written for another version of a library",
        "An argument was renamed or removed: tokenizer became processing_class, max_seq_length became max_length, "
        "evaluation_strategy became eval_strategy.",
        "Change the script to the new names, or render one for these versions; qlora-tools passes the right ones.",
        matching("unexpected keyword argument", rf"\b{_TRAINERS}(?:\.__init__)?\(\) got an unexpected keyword argument")
        + certain(
            "got an unexpected keyword argument 'num_items_in_batch'",
            "got an unexpected keyword argument 'dispatch_batches'",
        )
        + likely(
            "got an unexpected keyword argument",
            "takes no keyword arguments",
            "is deprecated and removed starting from version",
        )
        + matching(
            "cannot import name",
            r"cannot import name '(?:datacollatorforcompletiononlylm|sftconfig|setup_chat_format|adamw"
            r"|trainingarguments|prepare_model_for_int8_training)'",
        )
        + matching("setting an attribute", r"can'?t set attribute .{0,40}trainingarguments"),
        commands=("pip show transformers trl peft accelerate",),
    ),
    Failure(
        "libraries_disagree",
        "Installed libraries do not fit each other",
        "One library uses a name that the installed version of another does not have (yet, or any more).",
        "Upgrade transformers, peft, accelerate and trl together; in a notebook restart the kernel afterwards.",
        matching(
            "cannot import name", rf"cannot import name .{{0,80}}from (?:partially initialized module )?['\"]{_OURS}\b"
        )
        + certain(
            "is required for a normal functioning of this module",
            "requires the following version of",
            "versionconflict",
        )
        + matching("no module named", rf"no module named '{_OURS}\.[\w.]+'")
        + matching("has no attribute", rf"module '{_OURS}[\w.]*' has no attribute")
        + matching(
            "has no attribute",
            r"'(?:adamw|accelerator|sftconfig|trainingarguments|\w*trainer|\w*forcausallm|\w*tokenizer\w*"
            r"|\w*config|dynamiccache|partialstate|acceleratorstate|hybridcache)' object has no attribute",
            "likely",
        )
        + possible("has no attribute", "no attribute '", "attributeerror")
        + likely(
            "failed to import transformers.", "failed to import peft.", "failed to import trl.", "dependency conflicts"
        )
        + matching("requires", rf"importerror: {_OURS}[<>=!~]=?[\d.]+.{{0,60}}(?:is )?required"),
        commands=("pip install --upgrade transformers peft accelerate trl bitsandbytes", "pip check"),
    ),
    Failure(
        "native_library_mismatch",
        "A compiled library does not fit",
        "It was built for another torch, CUDA, compiler or system, or a library it needs is not found.",
        "Reinstall torch with torchvision and torchaudio from one index, and what it "
        "names; keep other CUDA folders out of "
        "LD_LIBRARY_PATH.",
        certain(
            "operator torchvision::nms does not exist",
            "dll load failed",
            "winerror 126",
            "winerror 127",
            "couldn't load custom c++ ops",
        )
        + matching("version", r"version `?(?:glibc|glibcxx|cxxabi)_[\d.]+'? not found")
        + matching(
            "libcu",
            r"lib(?:cu\w+|nccl|nvrtc|nvjitlink|torch\w*|c10\w*)[\w.\-]*: (?:cannot open "
            r"shared object|undefined symbol|version)",
        )
        + likely(
            "undefined symbol", "cannot open shared object file", "no module named '_ctypes'", "no module named '_lzma'"
        )
        + matching("have different cuda versions", r"pytorch and torchvision .{0,40}different cuda"),
        commands=("pip install --force-reinstall torch torchvision torchaudio", "unset LD_LIBRARY_PATH"),
    ),
    Failure(
        "cuda_toolkit_missing",
        "An extension is built here and the CUDA toolkit is missing",
        "DeepSpeed, flash-attn and others compile with nvcc, which a driver does not "
        "bring, and it must be of torch's version.",
        "Install the toolkit of torch's CUDA version, or a ready-made wheel.",
        certain(
            "cuda_home environment variable is not set",
            "cuda_home does not exist",
            "nvcc was not found",
            "unable to compile cuda op",
            "cudamismatchexception",
            "mismatches the version that was used to compile",
            "unable to jit load the",
            "error building extension",
            "nvcc: command not found",
        ),
        commands=("nvcc --version", "python -c 'import torch; print(torch.version.cuda)'"),
    ),
    Failure(
        "tokenizer_library_missing",
        "A library of the tokenizer is missing or too old",
        "Some tokenizers need sentencepiece, tiktoken or protobuf, and new "
        "tokenizer.json files need a newer tokenizers.",
        "Install them, upgrade transformers and tokenizers, and start anew.",
        certain(
            "requires the sentencepiece library",
            "you need to have sentencepiece installed",
            "couldn't instantiate the backend tokenizer",
            "requires the protobuf library",
            "no module named 'sentencepiece'",
            "no module named 'tiktoken'",
            "no module named 'protobuf'",
            "data did not match any variant of untagged enum",
            "descriptors cannot be created directly",
            "converting from sentencepiece and tiktoken failed",
            "`tiktoken` is required",
        ),
        commands=("pip install --upgrade transformers tokenizers sentencepiece tiktoken protobuf",),
    ),
    Failure(
        "training_library_missing",
        "The training libraries are not installed",
        "The light install plans and explains; training needs torch and its kin.",
        "Install the train extra.",
        certain("which the light install leaves out", "pip install 'qlora-tools[train]'")
        + matching("no module named", r"no module named '(?:torch|transformers|peft|trl|datasets|accelerate)'"),
        commands=("pip install 'qlora-tools[train]'",),
    ),
    Failure(
        "module_missing",
        "A Python package is not installed",
        "The script imports a package that this Python does not have, often because pip belongs to another Python.",
        "Install it with the Python that runs the script.",
        matching("no module named", r"(?:modulenotfounderror|importerror)?:? ?no module named", "likely")
        + possible("this modeling file requires the following packages"),
        commands=("python -m pip install PACKAGE",),
    ),
    Failure(
        "name_clash",
        "A file of the project hides a library",
        "A script or folder is called like a library (datasets, peft, trl, bitsandbytes) and is imported in its place.",
        "Rename the file or folder and delete __pycache__.",
        matching("partially initialized module", r"partially initialized module '\w+' has no attribute", "likely")
        + likely("most likely due to a circular import"),
        follows=True,
    ),
)
