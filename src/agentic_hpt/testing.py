"""Public helpers for tests: a scripted chat model and objectives with a known optimum."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence

from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.runnables import Runnable, RunnableLambda
from pydantic import BaseModel, ConfigDict, Field

from agentic_hpt.protocols import TrialHandle
from agentic_hpt.records import ParamValue

Answer = str | Mapping[str, object] | Exception


class ScriptedChatModel(BaseChatModel):
    """A chat model that gives the next answer of its script: text, an object (given as JSON), or an exception to raise.

    When the script is used up, the last answer is given again. `prompts` keeps what it was asked.
    """

    answers: Sequence[Answer] = Field(default_factory=list)
    prompts: list[str] = Field(default_factory=list)

    model_config = ConfigDict(arbitrary_types_allowed=True)

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: object,
    ) -> ChatResult:
        answer = self.answers[min(len(self.prompts), len(self.answers) - 1)] if self.answers else ""
        self.prompts.append("\n\n".join(str(m.content) for m in messages))
        if isinstance(answer, Exception):
            raise answer
        text = answer if isinstance(answer, str) else json.dumps(answer)
        usage = {"input_tokens": len(self.prompts[-1]) // 4, "output_tokens": len(text) // 4}
        message = AIMessage(text, usage_metadata={**usage, "total_tokens": sum(usage.values())})
        return ChatResult(generations=[ChatGeneration(message=message)])

    def with_structured_output(  # type: ignore[override]
        self, schema: dict[str, object] | type[BaseModel], *, include_raw: bool = False, **kwargs: object
    ) -> Runnable[LanguageModelInput, object]:
        """Give a runnable that reads the answer as JSON, as the providers' schema modes do."""

        def read(message: AIMessage) -> object:
            try:
                parsed, problem = json.loads(str(message.content)), None
            except (ValueError, RecursionError) as error:
                parsed, problem = None, error
            return {"raw": message, "parsed": parsed, "parsing_error": problem} if include_raw else parsed

        return self | RunnableLambda(read)


def decide(type_: str, reason: str = "because", **fields: object) -> dict[str, object]:
    """Give a coordinator's answer with one action, for a script."""
    return {"actions": [{"type": type_, "reason": reason, "evidence": [], **fields}]}


def bowl(**optimum: float) -> Callable[[Mapping[str, ParamValue], TrialHandle], dict[str, float]]:
    """Give an objective with its maximum, 0, at `optimum`: minus the squared distances of the numbers named.

    A parameter whose optimum is above 0 and that is named `learning_rate` is compared on a log scale.
    """

    def evaluate(params: Mapping[str, ParamValue], trial: TrialHandle) -> dict[str, float]:
        score = 0.0
        for name, best in optimum.items():
            value = params.get(name)
            if not isinstance(value, int | float):
                continue
            score -= math.log10(value / best) ** 2 if name == "learning_rate" else (value - best) ** 2
        trial.report({"score": score}, step=0)
        return {"score": score}

    return evaluate
