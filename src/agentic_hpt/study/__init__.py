"""Studies as their users hold them: tune, run, resume, look at, ask and tell."""

from agentic_hpt.study.core import Study
from agentic_hpt.study.faces import list_studies, open_view, replay_study, resume_study, run_study, tune
from agentic_hpt.study.result import Result

__all__ = ["Result", "Study", "list_studies", "open_view", "replay_study", "resume_study", "run_study", "tune"]
