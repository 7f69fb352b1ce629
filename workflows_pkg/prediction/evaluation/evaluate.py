"""How good are our predictors on these traces, beside every simple rule, and does any of them look ahead?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from workflows_pkg.prediction.evaluation import duration, failure, memory
from workflows_pkg.prediction.evaluation.leaks import Leak, leak
from workflows_pkg.prediction.evaluation.measures import Measure, Question
from workflows_pkg.prediction.evaluation.replay import replay
from workflows_pkg.prediction.evaluation.traces import Trace

QUESTIONS: tuple[Question, ...] = (duration.QUESTION, memory.QUESTION, failure.QUESTION)

Say = Callable[[str], None]


@dataclass(frozen=True)
class Evaluation:
    """The measures of one question on one trace, and what the leak check of our predictor found; None: there is none of ours."""

    question: str
    trace: str
    measures: tuple[Measure, ...]
    leak: Leak | None


def evaluate(trace: Trace, question: Question, say: Say = lambda text: None) -> Evaluation | None:
    """Replays one trace for one question; None where the trace does not tell enough to judge it."""
    if not question.asks(trace):
        return None
    name = f"{trace.name}: {question.name}"
    baselines = replay(trace, question.baselines(), progress=lambda done, of: say(f"{name}, baselines {done} of {of}"))
    if question.ours is None:
        return Evaluation(question.name, trace.name, tuple(question.measures(trace, None, baselines)), None)
    ours = replay(trace, question.ours(), progress=lambda done, of: say(f"{name}, ours {done} of {of}"))
    say(f"{name}, leak check")
    found = leak(trace, question.ours)
    return Evaluation(question.name, trace.name, tuple(question.measures(trace, ours, baselines)), found)
