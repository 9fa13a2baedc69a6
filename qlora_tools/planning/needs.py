"""What a run needs on a machine, where nothing but that figure is asked for."""

from ..config import RunConfig
from ..config.library_arguments import resolve_compute_dtype
from ..memory import Workload, estimate_training
from ..models.hardware import Hardware
from ..models.shape import ModelShape


def needed_bytes(config: RunConfig, shape: ModelShape, hardware: Hardware) -> int:
    """Memory that should be free to be sure, in the 16-bit format of `hardware` unless the config asks for fp32."""
    choice = config.quantization.compute_dtype
    dtype = choice if choice == "float32" else resolve_compute_dtype("auto", hardware)
    # Rows one by one are never padded: the case that fills the length is the fullest, the others need no look.
    workload = Workload() if config.training.micro_batch_size == 1 else None
    return estimate_training(config, shape, compute_dtype=dtype, hardware=hardware, workload=workload).needed_bytes
