"""The fast engine: the decoder layers of Llama-like models and their loss, computed with less work and less memory.

The modules of the model stay as they are: this package reads their weights and computes beside their `forward`, so that
saving, checkpoints, generation and evaluation by other parts see the plain model. `choosing` says which engine trains,
`trainer` trains, `model` is the decoder. Nothing is imported here: the kernels do without the rest.
"""
