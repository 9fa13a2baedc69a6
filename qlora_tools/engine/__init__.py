"""What runs in a job: load in 4-bit, attach the adapter, train, save. The only part that imports torch at its top."""

import os

# Read by torch when it first allocates on a GPU. Without it, memory that short-lived tensors of changing sizes leave
# behind cannot be joined again, and reserved memory grows well beyond what is allocated.
if not {"PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF"} & set(os.environ):
    os.environ["PYTORCH_CUDA_ALLOC_CONF"] = "expandable_segments:True"
