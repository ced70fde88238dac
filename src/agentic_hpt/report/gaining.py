"""What the winner gained over the default, and how it was chosen: sentences from the final figures."""

from __future__ import annotations

from collections.abc import Mapping

from agentic_hpt.records import is_number
from agentic_hpt.report.plain import counted, number

__all__ = ["gain_sentences"]


def gain_sentences(metric: str, final: Mapping[str, object]) -> list[str]:
    """Say what was gained beyond noise, from `FinalReport.to_json()` or the `final` of `hpt run --json`."""
    said = []
    finalists = final.get("finalists")
    if isinstance(finalists, list) and finalists:
        seeds = max(int(entry["seeds"]) for entry in finalists)
        said.append(
            f"The winner was chosen among {counted(len(finalists), 'finalist')} on {counted(seeds, 'seed')} each; "
            "none of these is part of its figures."
        )
    gain, low, high, default = (
        float(value) if is_number(value := final.get(key)) else None  # type: ignore[arg-type]
        for key in ("gain", "gain_low", "gain_high", "default_mean")
    )
    if gain is None or default is None:
        return said
    head = f"Gain over the default, which has {metric} {number(default)} on the same seeds: {number(gain)}"
    if low is None or high is None:
        return [*said, f"{head}; with one seed it is not known whether that is more than noise."]
    if low == high:
        return [*said, f"{head}; no noise was seen."]
    interval = f"{head} (95 % interval {number(low)} to {number(high)})"
    if low > 0:
        return [*said, f"{interval}: more than noise."]
    return [*said, f"{interval}: {'worse than the default' if high < 0 else 'within noise'}."]
