"""How does a workflow call a Python function? By its full name, from the modules that the code location grants."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from importlib import import_module
from types import FunctionType, ModuleType
from typing import Annotated, Any

from pydantic import Field

from workflows_pkg.errors import CodeProblem, Refused, bounded, suggestion
from workflows_pkg.security.allow import Allow
from workflows_pkg.steps.contract import Parameters, StepContext, StepKind, StepValue, TakesSecret
from workflows_pkg.steps.values import step_value

_CALL = re.compile(r"[A-Za-z]\w*(\.[A-Za-z]\w*)*:[A-Za-z]\w*", re.ASCII)


class PythonCall(Parameters):
    """Parameters of the step kind `python`."""

    call: str = Field(
        description="The function, as package.module:function. The code location says which modules may be called.",
        max_length=300,
    )
    args: Annotated[dict[str, Any], TakesSecret()] = Field(
        default_factory=dict,
        description="Keyword arguments of the function, which neither returns nor logs a secret that it is given.",
    )


def find_function(call: str, allow: Allow) -> Callable[..., object]:
    """The function that `call` names.

    Raises Refused before anything is imported where the module is not granted, CodeProblem where module or function
    is missing or not a plain function.

    The grant is checked a second time against the module that *defines* the function: a granted module that says
    `from subprocess import run` for its own use has not offered `run` to everybody who may edit a workflow file.
    """
    if not _CALL.fullmatch(call):
        raise Refused(
            f"'{bounded(call)}' is not a call of the form package.module:function.",
            fix="Name a public function of a module: no underscore in front, no dot after the colon.",
        )
    module_name, function_name = call.split(":")
    if not allow.allows_module(module_name):
        raise Refused(f"Functions of the module '{bounded(module_name)}' may not be called.", fix=_granted(allow))
    module = _module(module_name)
    found = vars(module).get(function_name)
    if not isinstance(found, FunctionType):
        raise CodeProblem(
            f"The module '{module_name}' has no function '{function_name}'."
            if found is None
            else f"'{call}' is {_article(type(found).__name__)}, not a plain function.",
            fix=suggestion(function_name, _public_functions(module, allow)),
        )
    if not allow.allows_module(found.__module__):
        raise Refused(
            f"'{call}' is defined in the module '{bounded(found.__module__)}', whose functions may not be called.",
            fix=f"{_granted(allow)} A function of your own around it can.",
        )
    if inspect.iscoroutinefunction(found) or inspect.isgeneratorfunction(found) or inspect.isasyncgenfunction(found):
        raise CodeProblem(f"'{call}' is a coroutine or a generator.", fix="Call a function that returns its result.")
    return found


def arguments(call: str, function: Callable[..., object], context: StepContext, args: Mapping[str, Any]) -> dict[str, Any]:
    """The keyword arguments of the call: `args`, then inputs, `partition` and `used` (of the context) for the parameters of those names.

    A parameter `used` that has a default means something of its own, and keeps it.

    Raises CodeProblem where they do not fit the function's signature.
    """
    signature = inspect.signature(function)
    named = {
        name
        for name, parameter in signature.parameters.items()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    }
    given = dict(args)
    for step in sorted(named & context.inputs.keys()):
        if step in given:
            raise CodeProblem(
                f"The parameter '{step}' of '{call}' is given by args and by the needed step '{step}'.", fix="Leave one out."
            )
        given[step] = context.inputs[step]
    if "partition" in named and "partition" not in given:
        given["partition"] = context.partition
    if "used" in named and "used" not in given and signature.parameters["used"].default is inspect.Parameter.empty:
        given["used"] = context.used
    try:
        signature.bind(**given)
    except TypeError as error:
        unknown = sorted(given.keys() - named)
        near = suggestion(unknown[0], named) if unknown else ""
        raise CodeProblem(
            f"'{call}' cannot be called with {_names(given)}: {error}.",
            fix=near or f"Its signature is {bounded(str(signature), 200)}; needed steps fill the parameters of their names.",
        ) from None
    return given


def run(context: StepContext, params: PythonCall) -> StepValue:
    """What the function returns, as a value that can travel between steps. Its own exceptions pass through unchanged."""
    function = find_function(params.call, context.allow)
    given = arguments(params.call, function, context, params.args)
    return step_value(function(**given), f"'{params.call}'")


def _module(name: str) -> ModuleType:
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(error.name + ".")):
            raise CodeProblem(
                f"There is no module '{bounded(name)}' (nothing is found for '{bounded(error.name)}').",
                fix="Is it installed, or below the working directory of the code location?",
            ) from None
        raise CodeProblem(f"The module '{name}' cannot be imported: {error}.") from error
    except Exception as error:  # the code of a granted module runs here, and may raise anything
        raise CodeProblem(f"The module '{name}' cannot be imported: {type(error).__name__}: {bounded(error, 200)}.") from error


def _public_functions(module: ModuleType, allow: Allow) -> list[str]:
    return [
        name
        for name, value in vars(module).items()
        if isinstance(value, FunctionType) and not name.startswith("_") and allow.allows_module(value.__module__)
    ]


def _granted(allow: Allow) -> str:
    if not allow.modules:
        return "This code location grants no modules."
    return f"This code location grants: {', '.join(sorted(allow.modules))}."


def _names(given: Mapping[str, Any]) -> str:
    return f"({', '.join(sorted(given))})" if given else "no arguments"


def _article(noun: str) -> str:
    return f"{'an' if noun[0].lower() in 'aeiou' else 'a'} {noun}"


PYTHON = StepKind(
    name="python",
    summary="Calls a Python function from a module that the code location grants.",
    params=PythonCall,
    run=run,
    example={"call": "assets.flights:score_delays", "args": {"threshold_minutes": 15}},
)
