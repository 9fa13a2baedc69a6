"""Opens one model file in llama.cpp (the wheel xllamacpp), exact on the CPU: one thread, fp32 cache, no fused attention.

`python llama_cpp_server.py FILE CONTEXT` prints its address as one line and ends when its stdin does.
"""

import sys

import xllamacpp


def opened(path: str, context: int) -> xllamacpp.Server:
    settings = xllamacpp.CommonParams()
    settings.model.path = path
    settings.n_ctx = context
    settings.n_batch = 64
    settings.n_parallel = 1
    settings.n_gpu_layers = 0
    settings.cpuparams.n_threads = 1
    settings.cache_type_k = settings.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    settings.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    settings.warmup = settings.fit_params = False
    settings.use_jinja = True
    settings.port = 0
    settings.verbosity = -1
    return xllamacpp.Server(settings)


if __name__ == "__main__":
    server = opened(sys.argv[1], int(sys.argv[2]))
    print(server.listening_address, flush=True)
    sys.stdin.read()
