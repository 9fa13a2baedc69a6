"""What goes wrong inside the training loop: gradients, checkpointing, resuming, stopping, tracking."""

from .changes import set_to
from .entry import Failure, certain, likely, matching, possible

FAILURES = (
    Failure(
        "no_gradient",
        "No gradient reaches the adapter",
        "The inputs of checkpointed layers are frozen (embeddings need no "
        "gradient), or nothing is trainable: reentrant "
        "checkpointing then cuts the graph.",
        "Call model.enable_input_require_grads(), or use gradient_checkpointing_kwargs={'use_reentrant': False}; check "
        "print_trainable_parameters(). qlora-tools does the first by itself.",
        certain(
            "none of the inputs have requires_grad=true",
            "does not require grad and does not have a grad_fn",
            "optimizer got an empty parameter list",
            "no inf checks were recorded for this optimizer",
            "no inf checks were recorded prior to update",
            "trainable params: 0 ||",
            "no gradient for any of the",
        )
        + matching(
            "lora",
            r"(?:lora_?b|lora weights?|adapter).{0,60}(?:all zeros?|not (?:been )?(?:updated|trained|changed))",
            "likely",
        )
        + matching("gradient", r"gradients? (?:is|are|will be) (?:all )?['\"]?(?:none|zeros?|0)\b", "likely"),
        set_to(training__gradient_checkpointing=True),
    ),
    Failure(
        "marked_ready_twice",
        "Checkpointing and DDP disagree",
        "Reentrant checkpointing runs a layer twice, and DDP counts its parameters twice.",
        "Use gradient_checkpointing_kwargs={'use_reentrant': False} and ddp_find_unused_parameters=False.",
        certain(
            "expected to mark a variable ready only once", "marked as ready twice", "has been marked as ready twice"
        ),
    ),
    Failure(
        "unused_parameters",
        "DDP waits for gradients that never come",
        "Some trainable parameters took no part in a step, such as an expert or a frozen tower.",
        "Adapt only layers that every row uses, or set ddp_find_unused_parameters=True.",
        certain(
            "expected to have finished reduction in the prior iteration",
            "parameters that were not used in producing loss",
        ),
    ),
    Failure(
        "checkpoint_recomputed_otherwise",
        "A layer recomputed something else in the backward pass",
        "Checkpointing recomputes activations; dropout, caches or changed dtypes made the second pass differ.",
        "Set use_cache=False, keep autocast the same in both passes, or turn checkpointing off.",
        certain("recomputed values for the following tensors have different metadata")
        + matching("checkpointerror", r"checkpointerror")
        + likely("a different number of tensors was saved during the original forward and recomputation"),
        set_to(training__gradient_checkpointing=False),
    ),
    Failure(
        "graph_used_twice",
        "The graph was freed before the second backward pass",
        "Two losses or two forward passes share a graph, often reentrant checkpointing in a custom loop.",
        "Use use_reentrant=False, and sum losses before one backward().",
        certain(
            "trying to backward through the graph a second time",
            "one of the variables needed for gradient computation has been modified",
        ),
    ),
    Failure(
        "resume_does_not_fit",
        "The checkpoint does not fit the run that resumes it",
        "The optimiser was saved for another set of trainable parameters: other target modules, another rank, "
        "modules_to_save, or a model that was loaded with the adapter frozen.",
        "Resume with the very config of the first run, or start anew from the adapter and leave the optimiser behind.",
        certain(
            "that doesn't match the size of optimizer's group",
            "loaded state dict has a different number of parameter groups",
            "can't find a valid checkpoint at",
            "no valid checkpoint found in output directory",
            "the checkpoint does not fit",
            "does not match the number of parameters in the optimizer",
            "exp_avg_sq",
        )
        + matching("trainer_state.json", r"(?:no such file|filenotfound|not found).{0,120}trainer_state\.json")
        + matching(
            "resum",
            r"\bresum\w+\b.{0,80}\b(?:not work|does not|doesn'?t|fail|restart|from (?:step|epoch) 0"
            r"|start(?:s|ed)? over|from scratch|loss (?:jump|spike))",
            "likely",
        )
        + likely("resume_from_checkpoint error"),
    ),
    Failure(
        "evaluation_without_rows",
        "An evaluation was asked for without rows for it",
        "The trainer evaluates (or keeps the best adapter, or stops early) and has no held-out rows or no metric.",
        "Hold rows out and say how often to evaluate.",
        certain(
            "trainer: evaluation requires an eval_dataset",
            "--load_best_model_at_end requires",
            "load_best_model_at_end requires the save",
            "earlystoppingcallback requires",
            "to train on what can be evaluated",
            "you have set `args.eval_strategy`",
            "you have set `args.evaluation_strategy`",
            "needs held-out rows",
        )
        + matching("eval_loss", r"keyerror: ['\"]eval_(?:loss|\w+)"),
        set_to(data__evaluation_fraction=0.05, training__evaluation_every_steps=50),
        more="data",
    ),
    Failure(
        "run_interrupted",
        "The run was stopped from outside",
        "A person, a time limit or a pre-empted machine sent a signal; nothing in the run itself failed.",
        "Resume from the last checkpoint; on a cluster ask for more time or save more often.",
        certain("keyboardinterrupt", "due to time limit", "due to preemption", "job step aborted", "has been preempted")
        + matching("sigterm", r"(?:received|got|exit\w*|(?<!closing )signal).{0,20}\bsigterm", "likely")
        + matching("got signal", r"got signal: (?:15|1|2)\b")
        + likely("death signal, shutting down workers", "signalexception: process")
        + matching("sighup", r"\bsighup\b", "likely")
        + matching("the run was stopped", r"the run was stopped after step"),
        set_to(training__checkpoint_every_steps=100),
    ),
    Failure(
        "tracker_not_set_up",
        "The experiment tracker is not logged in",
        "The trainer reports to a tracker by default, and that tracker asks for a key where nobody can type one.",
        "Turn tracking off, or log in first.",
        certain(
            "api_key not configured (no-tty)",
            "wandb: error",
            "wandb.errors",
            "wandb.sdk.lib.service",
            "call wandb login",
            "wandb login --relogin",
            "mlflow.exceptions",
        )
        + matching("wandb", r"(?:commerror|usageerror|authenticationerror).{0,80}(?:wandb|api key|run initialization)"),
        set_to(training__tracking="none"),
        ("wandb login",),
    ),
    Failure(
        "started_without_main_guard",
        "A new process ran the script from its top",
        "On Windows and macOS workers import the script anew; without a guard each starts the training again.",
        "Put the script's work under `if __name__ == '__main__':`, or use no data workers.",
        certain("before the current process has finished its bootstrapping phase", "freeze_support()"),
    ),
    Failure(
        "compilation_failed",
        "torch.compile failed",
        "Dynamo or Inductor could not compile the model; the first error below it "
        "says why, often a missing C compiler or "
        "an unfit triton.",
        "Turn compilation off: TORCHDYNAMO_DISABLE=1.",
        likely(
            "torch._dynamo.exc",
            "backendcompilerfailed",
            "inductorerror",
            "torch._inductor.exc",
            "backend='inductor' raised",
        ),
        commands=("export TORCHDYNAMO_DISABLE=1",),
        follows=True,
    ),
    Failure(
        "process_crashed",
        "The process crashed outside Python",
        "A native library crashed: builds that do not fit each other, a driver, or broken memory.",
        "Run `qlora doctor`; run again with PYTHONFAULTHANDLER=1 to see where it was.",
        matching("segmentation fault", r"segmentation fault", "likely")
        + matching("sigsegv", r"\bsigsegv\b", "likely")
        + matching("sigabrt", r"\bsigabrt\b", "possible")
        + matching("exitcode", r"exitcode ?[:=]? ?-(?:11|6|4|7)\b", "likely")
        + likely("core dumped", "illegal instruction"),
        commands=("qlora doctor", "export PYTHONFAULTHANDLER=1"),
        follows=True,
    ),
    Failure(
        "worker_failed",
        "One worker failed and took the others with it",
        "torchrun and accelerate only report that a process ended; the cause stands "
        "in the traceback of the first one that "
        "failed.",
        "Look further up for the first traceback, or run on one GPU to see it.",
        possible(
            "childfailederror",
            "subprocess.calledprocesserror",
            "returned non-zero exit status",
            "processraisedexception",
        )
        + matching("failed (exitcode", r"failed \(exitcode: ?1\)", "possible"),
        follows=True,
    ),
    Failure(
        "cannot_be_pickled",
        "An object cannot be handed to a worker process",
        "Workers get the function or rows by pickling; a lambda, a local function, a lock or a model does not survive it.",
        "Use one process (num_proc=1, no data workers), or define the function at the top of the module.",
        likely("can't pickle", "cannot pickle", "picklingerror", "can't get local object", "can't get attribute '"),
    ),
)
