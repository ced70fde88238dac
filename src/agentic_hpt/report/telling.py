"""An explanation in lines of text. Pure.

Told at length, a study of many rounds would not be read: chapters in which nothing happened are told together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

from agentic_hpt.records import ParamValue
from agentic_hpt.report.explain import ROUTINE, Act, Chapter, Cited, Explanation, Work
from agentic_hpt.report.plain import counted, number, visible

__all__ = ["lines"]

_AT_LENGTH = 6
"""Up to so many chapters are all told at length."""
_MOST = 24
"""No more chapters than this are told at length; of others only the sums."""
_MOST_CITED = 4
_MOST_DIFFERENCES = 4


def lines(story: Explanation) -> list[str]:
    """Write a story for people: headings at the margin, what belongs to them indented."""
    said = [f"{visible(story.study)}: {visible(story.begin[0])}", *(f"  {visible(s)}" for s in story.begin[1:])]
    for group in _condensed(story.chapters):
        said += _at_length(group[0], story) if len(group) == 1 else _together(group, story)
    said += ["The end", *(f"  {visible(sentence)}" for sentence in story.end)]
    return said


def _condensed(chapters: Sequence[Chapter]) -> list[list[Chapter]]:
    """Group the chapters: one that is told at length stands alone, neighbours that are not stand together."""
    ends = {0, len(chapters) - 1}
    told = {i for i, c in enumerate(chapters) if i in ends or c.eventful}
    if len(chapters) <= _AT_LENGTH:
        told = set(range(len(chapters)))
    elif len(told) > _MOST:
        weighty = sorted(told - ends, key=lambda i: (-max(chapters[i].gain or 0.0, 0.0), _is_routine(chapters[i]), i))
        told = ends | set(weighty[: _MOST - len(ends)])
    groups: list[list[Chapter]] = []
    for i, chapter in enumerate(chapters):
        if groups and i not in told and i - 1 not in told:
            groups[-1].append(chapter)
        else:
            groups.append([chapter])
    return groups


def _is_routine(chapter: Chapter) -> bool:
    acts = chapter.decided.acts if chapter.decided is not None else ()
    return all(act.type in ROUTINE for act in acts)


def _together(chapters: Sequence[Chapter], story: Explanation) -> list[str]:
    trials = sum(work.trials for chapter in chapters for work in chapter.work)
    deciders = Counter(chapter.decided.by for chapter in chapters if chapter.decided is not None)
    acts = Counter(a.type for c in chapters if c.decided for a in c.decided.acts if a.verdict != "refused")
    refused = sum(a.verdict == "refused" for c in chapters if c.decided for a in c.decided.acts)
    first, last = chapters[0], chapters[-1]
    who = ", ".join(f"{visible(by)} {counted(count, 'time')}" for by, count in deciders.most_common())
    what = ", ".join(f"{visible(kind)} {count}" for kind, count in acts.most_common())
    said = [f"Rounds {first.round} to {last.round}, told together", f"  Decided by {who}: {what}"]
    if refused:
        said[-1] += f"; {refused} refused"
    said.append(f"  Ran: {counted(trials, 'trial')}")
    whole = replace(last, before=first.before, changed=(), gain=_sum(c.gain for c in chapters), beyond_noise=None)
    return [*said, f"  {_brought(whole, story.metric)}", *_workers(chapters, story)]


def _sum(gains: Iterable[float | None]) -> float | None:
    known = [gain for gain in gains if gain is not None]
    return sum(known) if known else None


def _at_length(chapter: Chapter, story: Explanation) -> list[str]:
    decided = chapter.decided
    said: list[str] = []
    if decided is None:
        why = "before any decision" if chapter.round == 1 else "without a decision before it"  # in a revised space
        said.append(f"Round {chapter.round}, {why}" if chapter.round else "Before the first round")
    else:
        when = f"After round {decided.round}" if decided.round else "Before the first round"
        instead = ", in place of the model" if decided.fallback else ""
        said.append(f"{when} {visible(decided.by)} decided{instead}")
        if decided.fallback:
            said.append(f"  The model could not be used: {visible(decided.fallback)}")
        if decided.asked:
            said.append(f"  About asking the model: {visible(decided.asked)}")
        said += [f"  A person's note was read: {visible(note)}" for note in decided.notes]
        if decided.review:
            said.append(f"  A person reviewed it: {visible(decided.review)}")
        if decided.tokens:
            dollars = f", {number(decided.dollars)} dollars" if decided.dollars else ""
            said.append(f"  It cost {decided.tokens} tokens{dollars}")
        previous: tuple[Cited, ...] = ()
        for act in decided.acts:
            said += _act(act, shown=act.evidence == previous)
            previous = act.evidence
    if chapter.work:
        said.append(f"  {f'Round {chapter.round} ran' if decided is not None else 'Ran'}: {_ran(chapter.work)}")
        said.append(f"  {_brought(chapter, story.metric)}")
    return [*said, *_workers([chapter], story)]


def _workers(chapters: Sequence[Chapter], story: Explanation) -> list[str]:
    """Say how many of the spawned workers earned their trials: each by itself would be told again and again."""
    acts = [act for c in chapters if c.decided is not None for act in c.decided.acts]
    outcomes = Counter(act.outcome for act in acts if _is_summed(act))
    total = outcomes["came"] + outcomes["missing"]
    if not total:
        return []
    gain = "a gain" if story.noise_sd is None else "a gain beyond noise"
    if total == 1:
        return [f"  The spawned worker brought {gain if outcomes['came'] else gain.replace('a', 'no', 1)}"]
    return [f"  Of {total} spawned workers {outcomes['came'] or 'none'} brought {gain}"]


def _is_summed(act: Act) -> bool:
    return act.type == "spawn" and not act.stated


def _act(act: Act, shown: bool) -> list[str]:
    by = ", by a person" if act.by == "person" else f", by the {visible(act.by)}" if act.by else ""
    said = [f"  {act.what} [{act.verdict}{by}]: {visible(act.reason)}"]
    if act.guard and (act.verdict != "accepted" or act.type not in ROUTINE):  # else the verdict says it all
        said.append(f"    guard: {visible(act.guard)}")
    if act.evidence and not shown:
        cited = "; ".join(_cite(c) for c in act.evidence[:_MOST_CITED])
        more = len(act.evidence) - _MOST_CITED
        said.append(f"    rests on: {cited}" + (f"; {more} more" if more > 0 else ""))
    if act.effect and not _is_summed(act):
        said.append(f"    effect: {act.effect}")
    return said


def _cite(cited: Cited) -> str:
    value = number(cited.value) if cited.value is not None else visible(cited.state)
    if cited.best:
        return f"trial {cited.trial}, {value}, the best then"
    differs = [
        f"{visible(name)} {_held(own)} instead of {_held(other)}"
        for name, own, other in cited.differs[:_MOST_DIFFERENCES]
    ]
    more = len(cited.differs) - _MOST_DIFFERENCES
    if more > 0:
        differs.append(f"{more} more")
    return f"trial {cited.trial}, {value}" + (f" ({', '.join(differs)})" if differs else "")


def _held(value: ParamValue) -> str:
    return "unused" if value is None else number(value)


def _ran(work: Sequence[Work]) -> str:
    parts = []
    for one in work:
        facts = [f"best {number(one.best)}"] if one.best is not None else []
        facts += [
            f"{count} {state}"
            for state, count in (("pruned", one.pruned), ("failed", one.failed), ("running", one.running))
            if count
        ]
        kind = "" if one.kind in ("per_parameter", one.worker) else f" [{visible(one.kind)}]"
        parts.append(f"{visible(one.worker)}{kind} {one.trials}" + (f" ({', '.join(facts)})" if facts else ""))
    return f"{counted(sum(one.trials for one in work), 'trial')}: {', '.join(parts)}"


def _brought(chapter: Chapter, metric: str) -> str:
    if chapter.after is None:
        complete = any(one.complete for one in chapter.work)
        return f"Brought: nothing, no trial {'satisfies the constraints' if complete else 'is complete'} yet"
    now = f"{visible(metric)} {number(chapter.after)} (trial {chapter.best}, {visible(chapter.worker)})"
    if chapter.before is None:
        return f"Brought: {now}, the first figure"
    if not chapter.gain:
        return f"Brought: nothing better; the best stays {now}"
    if chapter.gain < 0:
        return f"Brought: {now}, down from {number(chapter.before)}: on other seeds the best was not as good"
    changes = [f"{visible(name)} {_held(a)} -> {_held(b)}" for name, a, b in chapter.changed[:_MOST_DIFFERENCES]]
    more = len(chapter.changed) - _MOST_DIFFERENCES
    how = f"; {', '.join(changes)}{f' and {more} more' if more > 0 else ''}" if changes else ""
    noise = {True: ", beyond noise", False: ", within the noise", None: ""}[chapter.beyond_noise]
    return f"Brought: {number(chapter.before)} -> {now}, better by {number(chapter.gain, 3)}{noise}{how}"
