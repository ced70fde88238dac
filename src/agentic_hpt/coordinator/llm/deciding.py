"""The coordinator that asks a chat model.

The policy is asked first, then the schedule, so that no call is made where there is nothing to decide. Then: one call,
one repair round that carries the error, then the rules, with the reason kept and shown.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Literal, cast

from agentic_hpt.config import CoordinatorConfig, mask_secrets
from agentic_hpt.coordinator.decisions import AnyAction, Decision, Repeat, Spawn
from agentic_hpt.coordinator.evidence import MAX_NOTES
from agentic_hpt.coordinator.guards import judge, judge_both
from agentic_hpt.coordinator.guards.draft import trials_of
from agentic_hpt.coordinator.llm.asking import OUT_OF_BUDGET, Asking, OutOfBudget, masked
from agentic_hpt.coordinator.llm.chat import Chat
from agentic_hpt.coordinator.prompts import ask_question
from agentic_hpt.coordinator.rules import decide_by_policy, decide_by_rules
from agentic_hpt.coordinator.schedule import NOT_ASKED, unseen_notes, why_ask
from agentic_hpt.errors import CoordinatorError
from agentic_hpt.protocols import Situation
from agentic_hpt.records import ActionRecord, DecisionRecord, JsonObject, ModelCall

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel


class LlmCoordinator:
    """Asks a LangChain chat model for decisions; see `protocols.Coordinator`.

    `make_model` is called at the first question, in a thread. `record` keeps every call. Limits of calls, tokens and
    dollars end the use of the model, not the study. `seen` may change the situation that the model is shown (it serves
    experiments on what a model makes of its evidence): the guards judge by the true one.
    """

    kind: Literal["rules", "llm"] = "llm"

    def __init__(
        self,
        name: str,
        make_model: Callable[[], BaseChatModel],
        config: CoordinatorConfig,
        record: Callable[[ModelCall], Awaitable[None]],
        *,
        seen: Callable[[Situation], Situation] | None = None,
        backoff_seconds: float = 0.5,
    ) -> None:
        self.model: str | None = name
        self._chat = Chat(make_model)
        self._config = config
        self._record = record
        self._seen = seen
        self._backoff = backoff_seconds

    async def decide(self, situation: Situation) -> DecisionRecord:
        """Give the next decision. Never raises for what the model does."""
        forced = decide_by_policy(situation)
        if forced is not None:
            return forced
        ask = why_ask(situation)
        if not ask.asked:
            return decide_by_rules(situation, asked=ask.reason)
        started = time.monotonic()
        shown, why = situation, ask.reason
        if self._seen is not None:  # only the triggers' names: their texts quote the true outcomes
            shown, why = self._seen(situation), "; ".join(part.split(":", 1)[0] for part in why.split("; "))
        asking = Asking(
            chat=self._chat,
            name=self.model or "",
            config=self._config,
            situation=situation,
            question=ask_question(shown, why, self._config, self._chat.schema_mode),
            record=self._record,
            backoff_seconds=self._backoff,
            calls=[],
        )
        try:
            decision = await asking.decision()
        except OutOfBudget as over:
            if not asking.calls:
                return _without_budget(situation, over.message)
            record = decide_by_rules(situation, over.message)
        except CoordinatorError as error:
            record = decide_by_rules(situation, masked(error.message)[:500])
        else:
            record = replace(
                DecisionRecord(situation.round, "llm", _judged(decision, situation), situation.source),
                notes=unseen_notes(situation)[:MAX_NOTES],
            )
        return replace(
            record,
            tokens=sum(c.input_tokens + c.output_tokens for c in asking.calls),
            dollars=sum(c.dollars for c in asking.calls),
            seconds=time.monotonic() - started,
            asked=ask.reason,
            evidence_id=asking.question.evidence_id,
            shown=asking.question.evidence,
        )


def _without_budget(situation: Situation, why: str) -> DecisionRecord:
    """Give the rules' decision when no call can be paid for. That they stand in for the model is said once."""
    said = any((d.fallback or "").startswith(OUT_OF_BUDGET) for d in situation.decisions)
    return decide_by_rules(situation, None if said else why, asked=NOT_ASKED + why)


def _judged(decision: Decision, situation: Situation) -> tuple[ActionRecord, ...]:
    """Give the guards' verdicts; what the model wrote goes on to reports and to MLflow without secrets and paths.

    Where the coordinator says which workers there are, the rules' workers, and their second runs of a best that may be
    luck, share what the model's leave of the round.
    """
    records = judge(decision, situation)
    taken = sum(trials_of(r) for r in records if r.verdict != "refused")
    left = situation.round_trials - taken
    ends = any(r.type == "finalize" and r.verdict != "refused" for r in records)
    if situation.strategy == "auto" and left > 0 and not ends:
        own: tuple[AnyAction, ...] = tuple(
            (Spawn if r.type == "spawn" else Repeat).model_validate(r.asked)
            for r in decide_by_rules(replace(situation, round_trials=left)).actions
            if r.type in ("spawn", "repeat") and r.verdict != "refused"
        )
        records = judge_both(decision, own, situation)
    return tuple(_cleaned(record) for record in records)


_PROSE = ("reason", "hypothesis", "hypotheses")
"""The parts of an action that are a model's words; paths elsewhere may be a parameter's values."""


def _cleaned(record: ActionRecord) -> ActionRecord:
    detail = {key: _clean(value) if key in _PROSE else value for key, value in record.detail.items()}
    asked = cast(JsonObject, _clean(record.asked, mask_secrets))
    return replace(
        record, reason=masked(record.reason), verdict_reason=masked(record.verdict_reason), detail=detail, asked=asked
    )


def _clean(value: object, clean: Callable[[str], str] = masked) -> object:
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, Mapping):
        return {clean(str(k)): _clean(v, masked if k in _PROSE else clean) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(v, clean) for v in value]
    return value
