"""Why lines of a script about a trained adapter stand there that belong to no field of the config."""

from .topics import Topic

_PEFT = "peft, PeftModel"
_GENERATION = "transformers, GenerationConfig"

TOPICS: dict[str, Topic] = {
    "command_line": Topic(
        "the command line",
        "What changes from one call to the next is a flag; what the adapter was trained with stands above.",
        "argparse",
        "Each flag says in --help which way it moves speed, memory or answers.",
    ),
    "adapter_files": Topic(
        "files that must be there",
        "A missing file is said before gigabytes are loaded, and weights that are pickles are refused: they can run code.",
        "safetensors, audited by Trail of Bits in 2023",
        "Without it PEFT would take adapter_model.bin, a pickle, where there are no safetensors.",
    ),
    "adapter_tokenizer": Topic(
        "the tokenizer of the adapter",
        "It lies beside the adapter with the chat template of the training, and a model is asked as it was trained.",
        "qlora train and train.py save it there",
        "With another template answers become worse without any error.",
    ),
    "prompt_form": Topic(
        "the form of a prompt",
        "The prompt ends exactly where the trained answers began, and has each special token once.",
        "transformers, chat templates",
        "With add_special_tokens there would be two BOS tokens, which many models were never trained on.",
    ),
    "stop_tokens": Topic(
        "where an answer ends",
        "Chat models often end a turn with another token than EOS; the one that was trained must stop generation.",
        _GENERATION,
        "Without it the model goes on after its answer, often by asking itself the next question.",
    ),
    "prompts": Topic(
        "reading prompts",
        "All are read and rendered before the model is loaded, so that a faulty row shows at once, with its line.",
        "plain reading",
        "Read later, the row would end the run after minutes.",
    ),
    "trained_base": Topic(
        "loading the base",
        "The base is quantised as it was in training: the adapter has learnt to correct these very weights.",
        "QLoRA, arXiv:2305.14314",
        "On a base with other rounding the answers differ a little; without quantisation it takes 2 bytes a parameter.",
    ),
    "cpu_form": Topic(
        "4-bit weights on the CPU",
        "On CPUs with AVX512-BF16 bitsandbytes would repack the weights for good and compute otherwise than in training.",
        "bitsandbytes 0.50, Linear4bit.forward",
        "No effect on GPUs and on other CPUs.",
    ),
    "sampling": Topic(
        "how tokens are chosen",
        "Greedy unless asked otherwise, so that the same prompt has the same answer; the base's own settings are put aside.",
        _GENERATION,
        "Published settings often hold a temperature or a penalty, which would act here without a word.",
    ),
    "adapter_on_base": Topic(
        "the adapter on the base",
        "It is held in the dtype of the matrix products: fp32 was of use to the small steps of training alone.",
        _PEFT,
        "In fp32 the thin products of the adapter take about three times as long.",
    ),
    "answer_batches": Topic(
        "many prompts at once",
        "A batch costs little more than one prompt; of like length, little of it is padding, which stands on the left.",
        "transformers, generation with padding",
        "Padded on the right, answers would begin behind the padding and be wrong.",
    ),
    "terminal": Topic(
        "answers in the terminal",
        "One answer is printed as it grows, so that one need not wait for its end.",
        "transformers, TextStreamer",
        "No effect on the answer.",
    ),
    "memory_room": Topic(
        "when memory runs out",
        "Beside the model, keys and values grow with rows times tokens, and logits with tokens times the vocabulary.",
        "transformers, key-value cache",
        "Halving what stands here halves that part; the model itself stays as large as it is.",
    ),
    "merge_base": Topic(
        "the base that is merged into",
        "The published 16-bit weights: in 4-bit ones most of the adapter would be lost to rounding.",
        "peft, quantisation guide; peft issues 2321 and 1043",
        "What the adapter learnt to correct of the quantisation is not in this base: evaluate the merged model.",
    ),
    "generation_config": Topic(
        "generation settings that can be saved",
        "Some models are published with a temperature but without do_sample, which newer versions refuse to save.",
        _GENERATION,
        "Without it saving such a model ends in an error, after all the work.",
    ),
    "parity": Topic(
        "the proof",
        "What lies on the disk is asked the same as base and adapter were; tokens that nearly tie are left out.",
        "qlora merge proves its merges so, in fp32",
        "Without it a merge into the wrong base, or a lost head, would show at the users.",
    ),
    "merging": Topic(
        "merging",
        "W + scale * B A for every layer, once and for all; safe_merge refuses weights that are no numbers.",
        "LoRA, arXiv:2106.09685; peft, merge_and_unload",
        "A merged model needs no PEFT, answers faster, and cannot be taken apart again.",
    ),
    "save_merged": Topic(
        "saving the merged model",
        "As safetensors in shards of 4 GB, with the tokenizer, under a name that says that it is not proven yet.",
        "transformers, save_pretrained",
        "Smaller shards need less memory when they are loaded again.",
    ),
    "held_out_rows": Topic(
        "the rows",
        "Tokenised, masked and cut as in training, so that the loss is that of the training's own evaluation.",
        "train.py has the same encode()",
        "With other masks the losses of two runs could not be compared.",
    ),
    "row_losses": Topic(
        "the loss of each row",
        "Summed over the answer's tokens in fp64; only these become fp32, since logits are the largest tensors here.",
        "torch, cross_entropy",
        "The mean of batches' means would weigh short answers more.",
    ),
    "bootstrap": Topic(
        "how sure the difference is",
        "Both sides are measured on the same rows, and those are drawn again with replacement.",
        "Efron and Tibshirani 1993, percentile bootstrap",
        "More resamples make the ends of the interval steadier; more rows make it narrower.",
    ),
    "exact_match": Topic(
        "answers that equal their reference",
        "A low loss is no proof of right answers; white space at both ends is left aside.",
        "the exact match of SQuAD, arXiv:1606.05250",
        "For long, free answers it says nothing: read them in the file of figures.",
    ),
    "comparison": Topic(
        "base against adapter",
        "With the adapter switched off the very same weights answer, so that nothing else can differ.",
        "peft, disable_adapter",
        "Two separately loaded models would take twice the memory.",
    ),
    "report": Topic(
        "the result",
        "A table to read, and all figures and answers as JSON for whatever comes next.",
        "plain writing",
        "Perplexity is exp(loss): how many tokens the model wavers between.",
    ),
}
