"""What people say in words where no error is raised: slow, endless, without
effect, nonsense, a loss that does not fall."""

from .changes import fewer_epochs, set_to, smaller_steps
from .entry import Failure, certain, likely, matching, possible

_NOT = (
    r"(?:does ?n[o']?t|doesn'?t|do(?:es)? not|did(?: not|n'?t)|not|never|won'?t|will not|can'?t|cannot|fails? to"
    r"|unable to|without)"
)
_SAME = (
    r"\bsame\b(?! (?:d?type|device|gpu|size|shape|length|error|issue|problem|time|config|question|thing|way|machine))"
)
_TUNED = r"(?:lora|adapter|peft|fine-?tun\w*|merged|base)"
_ANSWERS = r"(?:outputs?|answers?|respon\w+|results?|logits|generat\w+|inference|predict\w+|repl\w+|text)"

FAILURES = (
    Failure(
        "never_stops",
        "The model does not stop",
        "The end-of-answer token was never learnt: pad equals EOS and was masked, "
        "rows lack it, or generation waits for "
        "another one.",
        "Check with `qlora data inspect` that the end token is learnt; pass the template's end token as eos_token_id.",
        matching("stop", rf"{_NOT} (?:\w+ ){{0,3}}stop(?:s|ping)?\b(?!ped)", "likely")
        + matching("end", rf"{_ANSWERS} (?:\w+ ){{0,3}}(?:never|not|won'?t|doesn'?t) ends?\b", "likely")
        + matching(
            "eos",
            rf"{_NOT} (?:\w+ ){{0,3}}(?:generat|predict|produc|emit|output|learn)\w* (?:\w+ ){{0,3}}<?\|?eos",
            "likely",
        )
        + matching(
            "generat",
            r"(?:keeps?|kept|continues?|endless(?:ly)?|infinite(?:ly)?|non-?stop"
            r"|forever|never-?ending).{0,20}generat\w+"
            r"|generat\w+ .{0,40}(?:endless|infinite|forever|non-?stop|until (?:the )?max|indefinitely)",
            "likely",
        )
        + matching(
            "max",
            r"(?:continues|goes on|runs|generates|repeats|until|always).{0,30}(?:to|reach\w*|until|up to) (?:the )?"
            r"max(?:imum)?[_ ]?(?:number|new|length|tokens?)",
            "likely",
        )
        + matching(
            "token",
            r"(?:eos|end[- ]of[- ]\w+|<\|im_end\|>|<\|eot_id\|>|stop) ?tokens?.{0,60}"
            r"(?:never|not|missing|isn'?t) (?:\w+ ){0,2}(?:generat|predict|produc|learn|emit)",
            "likely",
        )
        + possible("pad token is same as eos token", "pad token id is same as eos"),
        commands=("qlora data inspect ROWS --model MODEL",),
        more="data",
    ),
    Failure(
        "adapter_without_effect",
        "The adapter changes nothing",
        "Its keys did not match the base (so it stayed at zero), it is disabled or not loaded, or it was never trained.",
        "Compare base and adapter with `qlora generate`; load it with "
        "PeftModel.from_pretrained on the plain base, once, and "
        "look for missing keys.",
        certain("found missing adapter keys while loading the checkpoint", "found unexpected keys")
        + likely("already found a `peft_config` attribute in the model", "multiple adapters in the model")
        + matching(
            "effect",
            rf"\b{_TUNED}\b.{{0,80}}\b(?:no|not? (?:have )?any|without|zero|not take) (?:effect|influence)",
            "likely",
        )
        + matching(
            "same",
            rf"\b{_TUNED}\b.{{0,150}}{_SAME}.{{0,40}}{_ANSWERS}|{_ANSWERS}.{{0,150}}{_TUNED}.{{0,80}}{_SAME}"
            rf"|{_SAME} {_ANSWERS}.{{0,80}}{_TUNED}|{_TUNED}.{{0,80}}{_ANSWERS}.{{0,80}}{_SAME}",
            "likely",
        )
        + matching("identical", rf"identical.{{0,60}}{_TUNED}|{_TUNED}.{{0,80}}identical", "likely")
        + matching("chang", rf"{_TUNED}\b.{{0,40}}{_NOT} (?:\w+ ){{0,2}}chang\w+ (?:\w+ ){{0,3}}{_ANSWERS}", "likely")
        + matching("impact", rf"{_TUNED}\b.{{0,40}}(?:{_NOT}|no) (?:\w+ ){{0,2}}impact", "likely")
        + matching(
            "base model", rf"(?:{_ANSWERS}|behav\w+|act\w*)\b.{{0,40}}(?:like|as|same as) (?:the )?base model", "likely"
        )
        + matching(
            "adapter",
            r"adapters? (?:weights? )?(?:is |are |was )?(?:not|n't|never) (?:be(?:ing|en)? )?(?:applied|used|loaded)",
            "likely",
        )
        + matching(
            "lora",
            r"lora (?:weights? )?(?:is |are )?(?:not (?:work|appl|load|used|tak)|ignored|doesn'?t work)",
            "likely",
        ),
        commands=("qlora generate --adapter OUTPUT -p PROMPT",),
    ),
    Failure(
        "gibberish_after_export",
        "The model writes nonsense",
        "The server uses another chat template or end token than training did, or the wrong base was merged.",
        "Use the template saved with the adapter (in Ollama the TEMPLATE of the "
        "Modelfile), and check the merged model with "
        "`qlora generate` before converting.",
        matching(
            "wrong",
            rf"\b(?:fully|totally|completely|all|only) wrong {_ANSWERS}",
            "likely",
        )
        + likely("gibberish", "garbled", "nonsens", "garbage output", "garbage text")
        + matching("random", r"random (?:outputs?|text|words|tokens|characters|symbols|answers)", "likely")
        + matching("garbage", rf"{_ANSWERS}.{{0,60}}garbage|garbage.{{0,60}}{_ANSWERS}", "likely")
        + matching(
            "ollama",
            r"(?:ollama|gguf|llama\.cpp).{0,80}(?:hallucinat|wrong|bad |worse|incoheren|repeat|poor)",
            "likely",
        )
        + matching(
            "repeat", r"repeat\w*.{0,40}(?:over and over|again and again|forever|itself|endlessly|same text)", "likely"
        ),
        commands=("qlora generate --adapter OUTPUT -p PROMPT",),
        more="data",
    ),
    Failure(
        "slow_inference",
        "Generation is slow",
        "4-bit weights are unpacked for every token, an unmerged adapter adds launches, and use_cache=False (left from "
        "checkpointing) computes the whole text anew for each token.",
        "Set use_cache to true and leave training mode; for serving merge the adapter and use a 16-bit or GGUF model.",
        matching(
            "slow",
            r"\b(?:inference|generat\w+|predict\w*|decod\w+|merged "
            r"model)\b.{0,60}\bslow(?! tokenizer| processor| image)"
            r"|\bslow(?! tokenizer| processor| image)\w*.{0,30}\b(?:inference|generation)",
            "likely",
        )
        + matching("long", r"\b(?:inference|generat\w+)\b.{0,40}takes? (?:so |very |too )?long", "likely"),
        commands=("qlora merge OUTPUT -o MERGED",),
    ),
    Failure(
        "slow_training",
        "Training is slow",
        "Usual reasons: products in float32, attention without a fast kernel, rows "
        "padded to the longest, layers on the CPU, "
        "or loading data.",
        "Leave quantization.compute_dtype and model.attention_implementation at "
        "auto, pack or bucket rows, and check with "
        "nvidia-smi that the GPU is busy.",
        matching(
            "slow",
            r"\b(?:train\w*|fine-?tun\w+|q?lora|sft|each step|iteration"
            r"|epoch)\b.{0,80}\bslow(?! tokenizer| processor| image)|\bslow(?! tokenizer| "
            r"processor| image)\w*.{0,40}\b(?:train|fine-?tun)",
            "likely",
        )
        + matching("utilization", r"gpu.{0,20}utili[sz]ation.{0,30}(?:low|only|\b[0-4]?\d ?%)|low gpu", "likely")
        + possible("very slow", "too slow", "slower than")
        + possible("flash-attention package not found, consider installing for better performance"),
        set_to(quantization__compute_dtype="auto", model__attention_implementation="auto"),
        ("nvidia-smi dmon -s u",),
    ),
    Failure(
        "loss_is_zero",
        "The loss is exactly zero",
        "No token is learnt (all labels masked or cut off), or NaN was logged as 0. A true loss is never exactly zero.",
        "Run `qlora data inspect --config` and look at the masks; use bf16. With NaN gradients it is an overflow.",
        matching(
            "loss",
            r"\bloss\b.{0,40}\b(?:is|to|stays?|always|becomes?|equals?|==?) (?:at )?(?:zero|0\.?0*)(?![.\d])"
            r"|\b(?:zero|0(?:\.0+)?) (?:training )?loss\b",
            "likely",
        ),
        commands=("qlora data inspect --config run.yaml",),
        more="data",
    ),
    Failure(
        "loss_does_not_fall",
        "The loss does not fall",
        "Nothing reaches the adapter (no gradient, wrong labels), or the learning rate is far too low.",
        "Check that gradients are not zero and labels not masked (`qlora data inspect`); then raise the learning rate.",
        matching(
            "loss",
            rf"\bloss\b.{{0,60}}\b(?:stuck|plateau\w*|{_NOT} (?:\w+ ){{0,2}}(?:decreas|go"
            rf"|fall|drop|chang|improv|converg|reduc))",
            "likely",
        )
        + matching("converg", rf"{_NOT} (?:\w+ )?converg", "likely"),
        commands=("qlora data inspect --config run.yaml",),
        more="hyperparameters",
    ),
    Failure(
        "loss_climbs",
        "The loss climbs",
        "The steps are too large: training diverges.",
        "Halve training.learning_rate, or lengthen the warm-up.",
        matching("loss", r"\bloss\b.{0,100}\b(?:explod|diverg|blow|spik|shoot|increas|rising|rises|jump)\w*", "likely"),
        smaller_steps,
        more="hyperparameters",
    ),
    Failure(
        "overfitting",
        "The rows are learnt by heart",
        "The training loss falls while the evaluation loss rises: the adapter "
        "repeats its rows and gets worse on others.",
        "Train fewer epochs with more varied rows; keep_best keeps the best adapter where there are evaluation rows.",
        likely("overfit", "catastrophic forgetting", "memorizing the training"),
        fewer_epochs,
        more="hyperparameters",
    ),
)
