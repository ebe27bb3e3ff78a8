"""The language-model benchmark as Markdown."""

from __future__ import annotations

import math
from typing import Any

from benchmarks.llm_plan import METHODS, MODES, SHARES, Case, Scale

Found = dict[str, dict[str, Any]]


def report(found: Found, scale: Scale) -> str:
    """All tables; what has not been measured is a dash."""
    parts = ["# Language model", head(found, scale)]
    for share in SHARES:
        parts += [f"## {share:.0%} of the parameters without embeddings", table(found, share)]
    failed = [f"- {name}: {each['failure']}" for name, each in found.items() if each.get("status") == "failed"]
    if failed:
        parts += ["## What failed", "\n".join(failed)]
    return "\n\n".join(parts) + "\n"


def head(found: Found, scale: Scale) -> str:
    """What was measured, and where."""
    original = found.get("original")
    if original is None:
        return "Nothing has been measured yet."
    size = original["parameters"]
    bits = math.log2(original["perplexity"]) / original["bytes_per_token"]
    return (
        f"Measured by `python benchmarks/llm.py` on {original['machine']}, torch {original['versions']['torch']}. The original "
        f"has {size['all']:,} parameters ({size['embeddings']:,} in embeddings), saw {scale.training.tokens:,} tokens of "
        f"{original['tokens']:,}, and predicts held-out files with perplexity {original['perplexity']:.3f} ({bits:.3f} bits per "
        f"byte). Distillation and training from nothing see {scale.tuning.tokens:,} tokens, {scale.longer.tokens:,} where a row "
        "says longer. *Recovered* is the share of the gap "
        "in log-perplexity between right after pruning and the original that distillation closes; *left* is what of the "
        "original's log-perplexity is lost after it."
    )


def table(found: Found, share: float) -> str:
    """One row for every method and way to cut."""
    lines = [
        "| cut | method | parameters | perplexity right after | after distillation | recovered | left |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for mode in MODES:
        for method, modes in METHODS.items():
            if mode in modes:
                lines.append(row(found, Case(share, mode, method)))
    return "\n".join(lines)


def row(found: Found, case: Case) -> str:
    """One line."""
    result, original = found.get(case.name), found.get("original")
    if result is None or original is None or result["status"] != "ok":
        return f"| {case.mode} | {case.method} | {'-' if result is None else 'failed'} | - | - | - | - |"
    size, base = result["parameters"], math.log(original["perplexity"])
    before, after = math.log(result["perplexity"]) - base, math.log(result["tuned"]) - base
    whole = original["parameters"]
    kept = (size["all"] - size["embeddings"]) / (whole["all"] - whole["embeddings"])
    recovered = f"{1 - after / before:.1%}" if before > 0 and case.method != "from nothing" else "-"
    raw = "-" if case.method == "from nothing" else f"{result['perplexity']:.3f}"
    return f"| {case.mode} | {case.method} | {kept:.1%} | {raw} | {result['tuned']:.3f} | {recovered} | {after / base:.1%} |"
