"""How a benchmark looks: Markdown, JSON and a picture."""

from __future__ import annotations

import platform
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import geometric_mean
from typing import Any

import numpy as np

from lrkd.serve.bench.measure import Cell, Timing
from lrkd.serve.card import StudentCard
from lrkd.serve.scorer import cores


@dataclass
class Results:
    """What was measured.

    Args:
        model: The export's folder.
        card: Its card.
        machine: Where.
        requests: Timings by cell and contender.
        streams: Timings of the stream by threads and contender.
        stream_tokens: Tokens a pair of the stream, the mean.
        peaks: Operations a second of a large matrix product in the export's precision, by threads.
        versions: Of the libraries of each contender.
        teacher: What a teacher needed.
    """

    model: Path
    card: StudentCard
    machine: str
    requests: dict[Cell, dict[str, Timing]] = field(default_factory=dict)
    streams: dict[int, dict[str, Timing]] = field(default_factory=dict)
    stream_tokens: float = 0.0
    peaks: dict[int, float] = field(default_factory=dict)
    versions: dict[str, dict[str, str]] = field(default_factory=dict)
    teacher: dict[str, Any] | None = None

    def fraction(self, rate: float, tokens: float, threads: int) -> float:
        """The share of the peak that the encoder's products with weights take, at this many pairs a second."""
        return 2 * float(self.card.source["multiplications_a_token"]) * tokens * rate / self.peaks[threads]

    def to_dict(self) -> dict[str, Any]:
        """Plain types."""
        return {
            "model": str(self.model),
            "fingerprint": self.card.fingerprint,
            "precision": self.card.precision,
            "machine": self.machine,
            "versions": self.versions,
            "peaks": self.peaks,
            "stream_tokens": self.stream_tokens,
            "requests": [
                {**asdict(cell), "contender": name, **asdict(timing)}
                for cell, timings in self.requests.items()
                for name, timing in timings.items()
            ],
            "streams": [
                {"threads": threads, "contender": name, **asdict(timing)}
                for threads, timings in self.streams.items()
                for name, timing in timings.items()
            ],
            "teacher": self.teacher,
        }


def machine() -> str:
    """The processor and its cores."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        lines = info.read_text(encoding="utf-8").splitlines()
        name = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), name)
    return f"{name}, {cores()} cores, Python {platform.python_version()}"


def markdown(results: Results) -> str:
    """The report."""
    card, parts = results.card, [f"# {results.card.method}, {results.card.precision}", ""]
    parts += [f"{results.machine}. Warm, tokenisation included, contenders in turn. Folder: {results.model}.", ""]
    if results.streams:
        parts += ["## Pairs a second", "", *_stream_table(results), ""]
    parts += ["## Requests", "", *_request_table(results), ""]
    if results.teacher is not None:
        parts += ["## Against a teacher", "", _teacher_text(results), ""]
    parts += ["## Versions", ""]
    parts += [
        f"- {name}: {', '.join(f'{k} {v}' for k, v in found.items())}" for name, found in results.versions.items()
    ]
    return "\n".join([*parts, "", f"Fingerprint: `{card.fingerprint}`", ""])


def _stream_table(results: Results) -> list[str]:
    rows = [
        f"Passes over the data's pairs ({results.stream_tokens:.0f} tokens each, the mean), medians; every contender "
        "with the batch size that suits it best. Ratios are of passes of one round: the median, and what half of the "
        "rounds lie between.",
        "",
        "| threads | contender | batch | pairs/s | lrkd / this | half of the rounds | of the machine's peak |",
        "| ---: | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for threads, timings in results.streams.items():
        for name, timing in timings.items():
            low, ratio, high = np.quantile(np.divide(timing.seconds, timings["lrkd"].seconds), (0.25, 0.5, 0.75))
            share = results.fraction(timing.rate, results.stream_tokens, threads)
            size = "by tokens" if name == "lrkd" else str(timing.size)
            rows.append(
                f"| {threads} | {name} | {size} | {timing.rate:,.0f} | {ratio:.2f} "
                f"| {low:.2f} to {high:.2f} | {share:.0%} |"
            )
    peaks = ", ".join(f"{peak / 1e9:,.0f} G/s with {threads} threads" for threads, peak in results.peaks.items())
    return [
        *rows,
        "",
        f"The peak is that of a large {results.card.precision} matrix product in onnxruntime ({peaks}; a "
        "multiplication and an addition are two operations). The share counts the encoder's products with weights.",
    ]


def _request_table(results: Results) -> list[str]:
    rows = [
        "| threads | tokens | batch | contender | p50 ms | p95 ms | p99 ms | pairs/s | lrkd / this |",
        "| ---: | ---: | ---: | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for cell, timings in results.requests.items():
        ours = timings["lrkd"].rate
        for name, timing in timings.items():
            quantiles = " | ".join(f"{timing.percentile(q):.1f}" for q in (50, 95, 99))
            rows.append(
                f"| {cell.threads} | {cell.length} | {cell.batch} | {name} | {quantiles} | {timing.rate:,.0f} "
                f"| {ours / timing.rate:.2f} |"
            )
    return [*rows, "", *_over_all_shapes(results)]


def _over_all_shapes(results: Results) -> list[str]:
    """How many times as fast the export is as each other contender, over the requests' shapes."""
    names = list(next(iter(results.requests.values())))[1:]
    rows = ["| lrkd / this, over the shapes | geometric mean | lowest | highest |", "| --- | ---: | ---: | ---: |"]
    for name in names:
        ratios = [timings["lrkd"].rate / timings[name].rate for timings in results.requests.values()]
        rows.append(f"| {name} | {geometric_mean(ratios):.2f} | {min(ratios):.2f} | {max(ratios):.2f} |")
    return rows if names else []


def _teacher_text(results: Results) -> str:
    found = results.teacher or {}
    each = found["seconds"] / found["pairs"]
    rate = results.streams[max(results.streams)]["lrkd"].rate
    written, asked = (found[name] / found["rationales"] for name in ("tokens", "prompt_tokens"))
    return (
        f"{found['model']} wrote {found['rationales']:,} rationales for {found['pairs']:,} pairs in batch mode, "
        f"{written:.0f} tokens each after a prompt of {asked:.0f}: {each:.2f} s a pair. The student takes "
        f"{1000 / rate:.2f} ms a pair of the same data: {each * rate:,.0f} times as fast."
    )


def draw(results: Results, file: Path) -> None:
    """Pairs a second by length, a panel a batch size, with the most threads that were measured."""
    import matplotlib.pyplot as plt

    from lrkd.evaluate.compare.plot_style import look

    threads = max(cell.threads for cell in results.requests)
    cells = [cell for cell in results.requests if cell.threads == threads]
    batches = sorted({cell.batch for cell in cells})
    names = list(next(iter(results.requests.values())))
    figure, axes = plt.subplots(1, len(batches), figsize=(3.2 * len(batches), 3.4), squeeze=False, layout="constrained")
    for axis, batch in zip(axes[0], batches, strict=True):
        own = sorted((cell for cell in cells if cell.batch == batch), key=lambda cell: cell.length)
        for number, name in enumerate(names):
            rates = [results.requests[cell][name].rate for cell in own]
            axis.plot([cell.length for cell in own], rates, label=name, **look(number))
        axis.set(title=f"{batch} pair{'s' * (batch > 1)} a request", xlabel="tokens a pair", xscale="log", yscale="log")
        axis.set_xticks([cell.length for cell in own], [str(cell.length) for cell in own])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[0, 0].set_ylabel(f"pairs/s, {threads} threads")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(3, len(labels)), frameon=False)
    figure.savefig(file, dpi=150)
    plt.close(figure)
