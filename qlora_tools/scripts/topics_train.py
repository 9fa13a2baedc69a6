"""Why lines of a training script stand there that belong to no field of the config."""

from .topics import Topic

_QLORA = "QLoRA, arXiv:2305.14314"
_TRL = "trl, SFTTrainer"
_TRANSFORMERS = "transformers, Trainer"

TOPICS: dict[str, Topic] = {
    "about": Topic(
        "what the script is",
        "Says how to start it, what it writes, and for which versions of the libraries it is written.",
        "PEP 257",
        "No effect on the run.",
    ),
    "dependencies": Topic(
        "libraries and their versions",
        "uv and other tools install what a script names in such a block; the ranges are those in which its names exist.",
        "PEP 723",
        "Without it the libraries are installed by hand; other versions may lack a name or an argument.",
    ),
    "imports": Topic(
        "imports",
        "What the script uses, and nothing else.",
        "PEP 8",
        "Without one of them the line that uses it fails.",
    ),
    "section": Topic(
        "heading of a section",
        "Editors and notebooks take `# %%` for the beginning of a cell, so that the script can be run piece by piece.",
        "the percent format of VS Code, Spyder and Jupytext",
        "No effect on the run.",
    ),
    "out_of_memory_order": Topic(
        "what to change when memory runs out",
        "The order keeps what is learnt as long as possible: time is given up first, then rows, then capacity.",
        "the planner's ladder (qlora plan)",
        "No effect on the run.",
    ),
    "flags": Topic(
        "flags",
        "What differs from one start to the next is a flag; all other settings stand above.",
        "argparse",
        "Without them the file would have to be changed for each start.",
    ),
    "stopping": Topic(
        "a stop that loses nothing",
        "Schedulers send SIGTERM before they take a machine away: the step in work is finished and a checkpoint saved.",
        "Transformers, TrainerCallback",
        "Without it all steps since the last checkpoint would be lost.",
    ),
    "device": Topic(
        "the device",
        "Takes the GPU of this process and its share of a step, and says before any download where it cannot do so.",
        "bitsandbytes, supported hardware",
        "Without it the failure would come later, from a kernel.",
    ),
    "prepared_rows": Topic(
        "rows in tokens",
        "What this data holds takes more than plain reading, so its rows were made beforehand, as training makes them.",
        "qlora script",
        "Read from the data itself they would be other rows, or masked otherwise.",
    ),
    "tokenizer": Topic(
        "the tokenizer",
        "Text becomes tokens of this very model; where it has no pad token, one is chosen.",
        "transformers, AutoTokenizer",
        "With another tokenizer the model would read other tokens than it knows. Labels are made from the text, so that "
        "padding with EOS hides no EOS from the loss.",
    ),
    "look": Topic(
        "a look at what is learnt",
        "One glance shows a mask that is wrong before it costs a night.",
        "heuristic of the field",
        "No effect on the run.",
    ),
    "order": Topic(
        "the order of the rows",
        "Rows of like length share a micro-batch, which saves padding; shuffled with the seed, so that it can be repeated.",
        "qlora train takes the same order",
        "In the order of the file there is more padding, and what stands together is learnt together.",
    ),
    "steps": Topic(
        "the number of steps",
        "Reckoned from rows, epochs and rows a step before anything is loaded.",
        "qlora train reckons the same",
        "More steps learn the rows better, then by heart.",
    ),
    "load": Topic(
        "loading the base",
        "Quantised while it is loaded, from safetensors alone: pickled weights can run code.",
        _QLORA,
        "Without quantization_config the base takes 16 bits a weight.",
    ),
    "prepare": Topic(
        "freezing the base",
        "The base stays as it is; gradients are wanted of the adapter alone.",
        _QLORA,
        "prepare_model_for_kbit_training would also turn embeddings and head into fp32, for nothing.",
    ),
    "cpu_autograd": Topic(
        "gradients on the CPU",
        "On CPUs with AVX512-BF16 bitsandbytes repacks weights in evaluation mode into a form without gradients.",
        "bitsandbytes 0.50, Linear4bit.forward",
        "Without it gradients are wrong on such CPUs after the first evaluation, without a word; no effect on GPUs.",
    ),
    "lora": Topic(
        "the adapter",
        "Low-rank matrices beside the frozen layers are all that is trained.",
        "LoRA, arXiv:2106.09685",
        "Without it nothing could be trained: 4-bit weights take no gradients.",
    ),
    "master_weights": Topic(
        "the adapter stays in fp32",
        "Steps of 2e-4 are lost in the rounding of bf16, and TRL turns adapters of a quantised model into bf16.",
        f"Mixed Precision Training, arXiv:1710.03740; {_TRL}",
        "In bf16 it learns less or not at all at small rates, and takes half the memory, which is little.",
    ),
    "not_finite": Topic(
        "a loss that is no number",
        "After NaN or infinity every weight of the adapter is lost; Transformers would hide such losses.",
        _TRANSFORMERS,
        "Without it the run goes on to its end for nothing.",
    ),
    "ready_rows": Topic(
        "rows that are ready",
        "They are tokenised, masked and cut already; TRL shall not do it again.",
        _TRL,
        "Left out, TRL would cut rows at 1,024 tokens, or drop the columns that it does not know.",
    ),
    "arguments": Topic(
        "the arguments of the trainer",
        "All that the run is told beside model and rows, each with its field.",
        _TRL,
        "What is left out has the default of the installed version.",
    ),
    "one_process": Topic(
        "one process, one GPU",
        "Where one process sees several GPUs, Trainer would copy the model to all of them (DataParallel), which 4-bit "
        "weights do not bear.",
        _TRANSFORMERS,
        "On machines with several GPUs it would fail or be slower; accelerate launch uses them all.",
    ),
    "trainer": Topic(
        "the trainer",
        "Puts model, arguments, rows and callbacks together.",
        _TRL,
        "Without processing_class the checkpoints would hold no tokenizer.",
    ),
    "run": Topic(
        "the run",
        "Trains, or goes on from the last checkpoint, and says what to do where memory runs out.",
        _TRANSFORMERS,
        "With --dry-run it ends here, before the first step.",
    ),
    "save": Topic(
        "saving",
        "The adapter, as safetensors, and the tokenizer with the chat template that it was trained with.",
        "peft, PeftModel.save_pretrained",
        "Without the tokenizer others would ask the model in another form than it has learnt.",
    ),
}
