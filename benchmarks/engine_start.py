"""Seconds of a fresh process until the full-size VAE has encoded and decoded a picture, in one of several ways.

    python benchmarks/engine_start.py WAY CACHE [ENCODER DECODER]

WAY is `kernels`, `compiled`, `eager` or `engine`; CACHE is the folder of what compilers keep; the files are engines.
`engines.py` calls this once for each way. Weights are random, and making them is not counted.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

BEGIN = time.perf_counter()


def main() -> None:
    """Print what was measured as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("way", choices=["kernels", "compiled", "eager", "engine"])
    parser.add_argument("cache")
    parser.add_argument("files", nargs="*")
    given = parser.parse_args()
    way, cache, files = given.way, given.cache, given.files
    import torch

    from wanbatch.engines import aot, graphs
    from wanbatch.pipeline.core.device import synchronized_time
    from wanbatch.pipeline.loading.compiler import set_up_compiler
    from wanbatch.pipeline.loading.random_model import random_vae
    from wanbatch.pipeline.loading.runtime import Runtime
    from wanbatch.pipeline.loading.single_frame import compiled_vae, runnable_vae, single_frame_vae

    imported = time.perf_counter()
    gpu = torch.cuda.is_available()
    device, dtype = torch.device("cuda" if gpu else "cpu"), torch.bfloat16 if gpu else torch.float32
    set_up_compiler(cache)
    smaller = {} if gpu else {"base_dim": 8, "decoder_base_dim": 8, "num_res_blocks": 1}
    model = random_vae(device, dtype, **smaller)
    size = (1280, 704) if gpu else (64, 64)
    with torch.inference_mode():
        vae = single_frame_vae(model, device)
        both = graphs.vae_graphs(vae, size, model.config.scale_factor_spatial, model.config.z_dim, dtype, device)
        images, latents = (next(iter(graph.inputs.values())) for graph in both)
        begin = synchronized_time(device)
        if way == "engine":
            encode, decode = (aot.load(Path(file), graph.module) for file, graph in zip(files, both, strict=True))
        else:
            made = compiled_vae(vae) if way == "compiled" else runnable_vae(vae, Runtime(compile=False), device)[0]
            encode, decode = made.encode, made.decode
        ready = synchronized_time(device)
        encode(images)
        encoded = synchronized_time(device)
        decode(latents)
        decoded = synchronized_time(device)
    found = {
        "import_seconds": imported - BEGIN,
        "ready_seconds": ready - begin,
        "encode_seconds": encoded - ready,
        "decode_seconds": decoded - encoded,
        "first_picture_seconds": decoded - begin,
    }
    print(json.dumps({name: round(seconds, 2) for name, seconds in found.items()}))


if __name__ == "__main__":
    main()
