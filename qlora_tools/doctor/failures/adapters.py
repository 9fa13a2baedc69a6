"""The adapter: attaching, loading, merging, and whether it does anything."""

from .changes import set_to
from .entry import Failure, certain, matching

FAILURES = (
    Failure(
        "target_modules_not_found",
        "The target modules do not exist in this model",
        "Projections have other names in other families (q_proj, query_key_value, "
        "c_attn, qkv_proj), or the list is empty.",
        "Set lora.target_modules to all-linear, which works for every family.",
        matching("not found in the base model", r"target modules?.{0,300}not found in the base model")
        + certain(
            "no modules were targeted for adaptation",
            "please specify `target_modules`",
            "no `target_modules` passed",
            "target_modules` passed but also",
        )
        + matching("is not supported", r"target module .{0,300}is not supported"),
        set_to(lora__target_modules="all-linear"),
        more="hyperparameters",
    ),
    Failure(
        "adapter_saved_empty",
        "The adapter was saved without its weights",
        "Under ZeRO-3 or FSDP each process holds a part; saving without gathering wrote tensors of size 0.",
        "Gather before saving (stage3_gather_16bit_weights_on_model_save, or FULL_STATE_DICT), and save again from the "
        "checkpoint.",
        matching("torch.size([0])", r"(?:shape torch\.size\(\[0\]\) from checkpoint|is torch\.size\(\[0\]\))")
        + matching(
            "adapter",
            r"adapter_?model\.(?:bin|safetensors).{0,60}(?:only |just )?(?:\d{2,3} "
            r"?(?:bytes|b|kb)|too small|empty|very small)",
            "likely",
        ),
    ),
    Failure(
        "adapter_of_another_base",
        "The adapter does not fit this base",
        "Its matrices have other shapes: it was trained on another model, another "
        "size, with other settings, or by another "
        "version of peft.",
        "Load the base that adapter_config.json names (base_model_name_or_path), of that very revision.",
        matching(
            "size mismatch for",
            r"size mismatch for (?:base_model\.|[\w.]*lora_|[\w.]*modules_to_save)[\w.]*: "
            r"(?!copying a param with shape torch\.size\(\[0\]\))(?<!embed_tokens\.weight: )(?<!lm_head\.weight: )",
        )
        + matching("in loading state_dict for", r"error\(s\) in loading state_dict for peft", "likely")
        + certain("is not the model that this adapter was trained on", "does not fit its base")
        + matching(
            "lora_a",
            r"size of tensor a \(\d+\) must match the size of tensor b \(\d+\).{0,400}lora"
            r"|lora.{0,300}size of tensor a \(\d+\) must match",
            "likely",
        )
        + matching("shapes cannot be multiplied", r"lora.{0,300}mat1 and mat2 shapes cannot be multiplied", "likely"),
    ),
    Failure(
        "adapter_not_found",
        "No adapter was found",
        "The directory has no adapter_config.json or no adapter_model.safetensors: a "
        "checkpoint of another kind, or the parent "
        "folder.",
        "Give the directory that holds adapter_config.json.",
        certain(
            "can't find 'adapter_config.json'",
            "can't find adapter_config.json",
            "there is no adapter directory",
            "please check that the file adapter_model",
            "cannot find adapter",
            "adapter not found in",
        )
        + matching(
            "adapter_config.json",
            r"(?:no such file|not found|entrynotfound|does not exist|404).{0,200}adapter_config\.json",
        )
        + matching(
            "adapter_model",
            r"(?:no such file|not found|entrynotfound|does not exist|404|is not).{0,200}adapter_model\.(?:bin"
            r"|safetensors)|adapter_model\.(?:bin|safetensors).{0,60}(?:is not present|not found|does not exist)",
        )
        + matching("holds no adapter", r"holds no adapter|the adapter .{0,200} has no adapter_model"),
    ),
    Failure(
        "merging_into_quantised",
        "The adapter was merged into a quantised base",
        "Packed weights cannot take the difference exactly: old versions refuse, new ones round it, and answers change.",
        "Load the base in 16 bits and merge there; `qlora merge` does so and compares the answers.",
        certain(
            "cannot merge lora layers when the model is loaded in",
            "merge lora module to 4-bit linear may get different generations",
            "merge lora module to 8-bit linear may get different generations",
            "does not answer as base plus adapter",
        )
        + matching(
            "merg",
            r"(?:size of tensor|shape mismatch|output with shape).{0,300}merg|in "
            r"merge.{0,400}(?:size of tensor|must match the size)",
            "likely",
        )
        + matching(
            "merg",
            r"merg(?:e|ed|ing)\b.{0,100}\b(?:worse|quality|degrad|different|drop|perform\w* "
            r"bad|gibberish|nonsense|garbage|accuracy)",
            "likely",
        )
        + matching("merge", r"merge_and_unload.{0,100}(?:4-?bit|8-?bit|quanti)", "likely"),
        commands=("qlora merge OUTPUT -o MERGED",),
        more="merging",
    ),
    Failure(
        "shared_tensors_saved",
        "Weights that share memory cannot be saved",
        "Head and embedding are tied, and safetensors writes each tensor once.",
        "Save through save_pretrained; do not adapt a tied head, or untie it first.",
        certain(
            "some tensors share memory",
            "contained shared tensors",
            "tensors that are shared",
            "weights trying to be saved contained shared",
        ),
    ),
)
