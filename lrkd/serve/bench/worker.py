"""One contender in a process of its own: it loads, then scores what it is asked to and tells the seconds.

It is run as a file, by any Python that has what the contender needs: only the export needs lrkd there. Orders come as
lines of JSON on standard input, answers as lines on standard output:

    python worker.py KIND FOLDER THREADS
    {"versions": {...}}                                       once it is loaded
    {"pairs": [[query, item], ...], "repeat": 5, "size": 32}  an order: score these pairs five times
    {"seconds": [...]}                                        the wall-clock seconds of each time, tokenisation included
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from time import perf_counter
from typing import Any

Pairs = list[list[str]]
Score = Callable[[Pairs, int], object]

PACKAGES = ("onnxruntime", "tokenizers", "torch", "transformers", "sentence-transformers", "optimum-onnx", "openvino")


def load_export(folder: str, threads: int) -> Score:
    """An export by its Scorer; the size of a batch follows from its token budget."""
    from lrkd.serve import Scorer

    scorer = Scorer(folder, threads=threads)

    def score(pairs: Pairs, size: int) -> object:
        return scorer.score_texts([query for query, _ in pairs], [item for _, item in pairs])

    return score


def load_cross_encoder(folder: str, threads: int, backend: str, precision: str) -> Score:
    """sentence-transformers' CrossEncoder with one of its backends, as its documentation sets it up for speed."""
    import torch
    from sentence_transformers import CrossEncoder

    torch.set_num_threads(threads)
    settings: dict[str, Any] = {}
    if backend == "torch":
        settings = {"dtype": getattr(torch, precision)}
    elif backend == "onnx":
        settings = {"provider": "CPUExecutionProvider", "session_options": _onnx_options(threads)}
        settings["file_name"] = _onnx_file(folder, precision)
    elif backend == "openvino":
        hint = {"float32": "f32", "bfloat16": "bf16"}[precision]
        config = {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "THROUGHPUT"}
        settings = {"ov_config": config}
    model = CrossEncoder(folder, device="cpu", backend=backend, model_kwargs=settings)

    def score(pairs: Pairs, size: int) -> object:
        return model.predict(pairs, batch_size=size, apply_softmax=True, show_progress_bar=False)

    return score


def _onnx_options(threads: int) -> object:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return options


def _onnx_file(folder: str, precision: str) -> str:
    """The optimised (O3), and for int8 the quantised, graph in the folder; made when it is first asked for."""
    from sentence_transformers import CrossEncoder
    from sentence_transformers.backend import export_dynamic_quantized_onnx_model, export_optimized_onnx_model

    name = {"float32": "onnx/model_O3.onnx", "int8": "onnx/model_qint8_avx512_vnni.onnx"}[precision]
    if not os.path.isfile(os.path.join(folder, name)):
        model = CrossEncoder(folder, device="cpu", backend="onnx", model_kwargs={"export": True})
        if precision == "int8":
            export_dynamic_quantized_onnx_model(model, "avx512_vnni", folder)
        else:
            export_optimized_onnx_model(model, "O3", folder)
    return name


def load(kind: str, folder: str, threads: int) -> Score:
    """A contender: ``export``, or backend and precision of a CrossEncoder, such as ``onnx-int8``."""
    if kind == "export":
        return load_export(folder, threads)
    backend, _, precision = kind.partition("-")
    return load_cross_encoder(folder, threads, backend, precision)


def timed(score: Score, pairs: Pairs, size: int, repeat: int) -> list[float]:
    """The seconds of each time that the pairs are scored."""
    seconds = []
    for _ in range(repeat):
        started = perf_counter()
        score(pairs, size)
        seconds.append(perf_counter() - started)
    return seconds


def pin(threads: int) -> None:
    """Keep this process to so many cores, where the system can.

    Not all keep to the threads that they are told: OpenVINO in throughput mode takes every core that it sees.
    """
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def main() -> None:
    """Serve orders until standard input ends."""
    kind, folder, threads = sys.argv[1], sys.argv[2], int(sys.argv[3])
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not be taken for an answer
    pin(threads)
    score = load(kind, folder, threads)
    print(json.dumps({"versions": _versions()}), file=answers, flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        seconds = timed(score, order["pairs"], order["size"], order["repeat"])
        print(json.dumps({"seconds": seconds}), file=answers, flush=True)


if __name__ == "__main__":
    main()
