"""Tools of your own: `tool` makes one of a function.

Its name, its docstring and its signature become what a model is told of it. Parameters with a name in `CONTEXT` are
filled in by toolfleet; a model neither sees them nor can set them.
"""

import ast
import builtins
import dis
import importlib
import inspect
import re
import textwrap
import types
import typing
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, ParamSpec, TypeVar

from pydantic import TypeAdapter, ValidationError, create_model
from pydantic.errors import PydanticUserError
from pydantic.fields import FieldInfo

from toolfleet.config.errors import SettingsError
from toolfleet.config.tools.base import Arguments, Definition, Where

P = ParamSpec("P")
R = TypeVar("R")


class ToolFailed(Exception):
    """Raise it in a tool to tell the model why it failed, in your words alone; of others it reads the type as well."""


@dataclass(frozen=True, slots=True)
class Context:
    """What the carrier of a call says of it. A tool gets what it has a parameter for."""

    trajectory_id: str | None
    call_id: str | None
    timeout: float
    """Seconds that the call may still take."""
    slot_id: str | None = None
    """As a predecessor's executor says it to a ToolServer; so is the next one."""
    container_addr: str | None = None

    @property
    def task_id(self) -> str | None:
        """The trajectory, by a predecessor's name."""
        return self.trajectory_id


#: Parameters that are not the model's.
CONTEXT = frozenset({"trajectory_id", "task_id", "call_id", "slot_id", "container_addr", "timeout"})

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}")


@dataclass(frozen=True)
class UserTool(Generic[P, R]):
    """A function that models may call. It can still be called as what it is."""

    definition: Definition[Any]
    function: Callable[P, R]
    context: frozenset[str]
    """The parameters in `CONTEXT` that it has."""
    whole: str | None = None
    """Its parameter that takes all arguments at once, as the model that describes them."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function."""
        return self.function(*args, **kwargs)

    @property
    def is_generator(self) -> bool:
        """It yields requests to the runner, and runs in the worker in between."""
        return inspect.isgeneratorfunction(self.function)

    @property
    def is_async(self) -> bool:
        """It is awaited on an event loop; another one gets a thread."""
        return inspect.iscoroutinefunction(self.function)

    def keywords(self, arguments: Arguments, context: Context | None = None) -> dict[str, Any]:
        """What the function is to be called with; one of a sandbox has no context."""
        if self.whole is not None:
            given: dict[str, Any] = {self.whole: arguments}
        else:
            given = {name: getattr(arguments, name) for name in type(arguments).model_fields if name != "timeout"}
        return {**given, **{name: getattr(context, name) for name in self.context}}


def tool(
    *, where: Where, name: str | None = None, description: str | None = None
) -> Callable[[Callable[P, R]], UserTool[P, R]]:
    """Make a tool of the function below.

    Args:
        where: ``sandbox`` runs the function's source with the sandbox's own python3, or, when it is a generator, takes
            the requests to the runner that it yields; ``worker`` runs it in the worker's process; ``external`` at the
            ToolServer.
        name: What models call it; the function's name when absent.
        description: What models read of it; the docstring when absent.

    Raises:
        SettingsError: the function cannot be a tool; the message says what to change.
    """

    def make(function: Callable[P, R]) -> UserTool[P, R]:
        label = name or function.__name__
        if not _NAME.fullmatch(label):
            raise _wrong(function, f"the name {label!r} must be 1 to 64 letters, digits, _ and -, no digit first")
        text = description or inspect.getdoc(function)
        if not text:
            raise _wrong(function, "a model must read what it does: give it a docstring")
        parameters = _parameters(function)
        context = frozenset(parameters) & CONTEXT
        own = {key: parameter for key, parameter in parameters.items() if key not in CONTEXT}
        model, whole = _arguments(function, own)
        made = UserTool(Definition(label, text, model, where=where), function, context, whole)
        if where == "sandbox" and context:
            raise _wrong(function, f"a sandbox is not told {', '.join(sorted(context))}: remove the parameter")
        if where == "sandbox" and not made.is_generator:
            source(made)
        if where != "sandbox" and (made.is_generator or inspect.isasyncgenfunction(function)):
            raise _wrong(function, "a generator is a sandbox's: write @tool(where='sandbox'), or return the result")
        return made

    return make


def load(modules: Sequence[str]) -> list[UserTool[..., Any]]:
    """The tools that these modules define, in order.

    Raises:
        SettingsError: a module cannot be imported or has no tools, or two tools have one name.
    """
    found: dict[str, UserTool[..., Any]] = {}
    for module in modules:
        mine = list(_of_module(module))
        if not mine:
            raise SettingsError(f"the module {module} of the setting tools has no tools: decorate functions with @tool")
        for one in mine:
            before = found.setdefault(one.definition.name, one)
            if before is not one:
                raise SettingsError(f"two tools are named {one.definition.name!r}; give one @tool(name=...)")
    return list(found.values())


def source(made: UserTool[..., Any]) -> str:
    """The source of a tool's function as it runs in a sandbox: without decorator, annotations and defaults.

    Raises:
        SettingsError: it needs more than its source; the message says what to change.
    """
    function = made.function
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise _wrong(function, "it runs alone in its sandbox: write def, not async def")
    if made.whole is not None:
        raise _wrong(function, "its source cannot use the model of its arguments: list them as parameters")
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, SyntaxError, TypeError) as error:
        raise _wrong(function, f"its source cannot be read ({error}): define it in a file") from None
    node = tree.body[0]
    if not isinstance(node, ast.FunctionDef):
        raise _wrong(function, "only a function defined with def can run in a sandbox")
    code = inspect.unwrap(function).__code__
    if code.co_freevars:
        raise _wrong(function, f"it uses {', '.join(code.co_freevars)} of the function around it: pass arguments")
    foreign = sorted(set(_globals_of(code)) - set(dir(builtins)) - {function.__name__})
    if foreign:
        raise _wrong(function, f"its sandbox has no {', '.join(foreign)}: import or define it inside the function")
    node.decorator_list, node.returns = [], None
    node.args.defaults, node.args.kw_defaults = [], [None] * len(node.args.kwonlyargs)
    for argument in (*node.args.args, *node.args.kwonlyargs):
        argument.annotation = None
    return ast.unparse(node)


# -- inside


def _of_module(name: str) -> Iterator[UserTool[..., Any]]:
    try:
        module = importlib.import_module(name)
    except SettingsError:
        raise
    except Exception as error:
        hint = "; is it installed, or on PYTHONPATH?" if isinstance(error, ModuleNotFoundError) else ""
        raise SettingsError(
            f"the module {name} of the setting tools cannot be imported: {type(error).__name__}: {error}{hint}"
        ) from error
    return (value for value in vars(module).values() if isinstance(value, UserTool))


def _parameters(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    try:
        hints = typing.get_type_hints(function, include_extras=True)
    except (NameError, TypeError) as error:
        raise _wrong(function, f"an annotation cannot be understood ({error})") from None
    parameters: dict[str, inspect.Parameter] = {}
    for key, parameter in inspect.signature(function).parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise _wrong(function, f"a model must know every argument: replace {parameter} by parameters with names")
        if parameter.kind is parameter.POSITIONAL_ONLY:
            raise _wrong(function, f"arguments come by name: remove the / behind {key}")
        if key.startswith("_"):
            raise _wrong(function, f"the parameter {key} must not begin with an underscore")
        if key not in hints and key not in CONTEXT:
            raise _wrong(function, f"the parameter {key} has no type: write {key}: str, or whatever it is")
        parameters[key] = parameter.replace(annotation=hints.get(key, Any))
    return parameters


def _arguments(
    function: Callable[..., Any], parameters: dict[str, inspect.Parameter]
) -> tuple[type[Arguments], str | None]:
    """The model of a function's arguments, and the parameter that takes it whole, if there is one."""
    if len(parameters) == 1:
        ((only, parameter),) = parameters.items()
        if isinstance(parameter.annotation, type) and issubclass(parameter.annotation, Arguments):
            return parameter.annotation, only
    fields: dict[str, Any] = {}
    for key, parameter in parameters.items():
        default = parameter.default
        if hasattr(Arguments, key):
            raise _wrong(function, f"pydantic has another use for the name {key}: rename the parameter")
        if default is not parameter.empty and not isinstance(default, FieldInfo):
            _check_default(function, parameter)
        fields[key] = (parameter.annotation, ... if default is parameter.empty else default)
    try:
        model = create_model(f"{function.__name__}_arguments", __base__=Arguments, **fields)
        model.model_json_schema()
    except PydanticUserError as error:
        first = str(error).split("\n", 1)[0]
        raise _wrong(function, f"a type cannot be told to a model in JSON: {first}") from None
    return model, None


def _check_default(function: Callable[..., Any], parameter: inspect.Parameter) -> None:
    try:
        TypeAdapter(parameter.annotation).validate_python(parameter.default)
    except ValidationError:
        raise _wrong(function, f"the default of {parameter.name} is not of its type") from None
    except PydanticUserError:
        return  # said better where the model is made


def _globals_of(code: types.CodeType) -> Iterator[str]:
    for instruction in dis.get_instructions(code):
        if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            yield str(instruction.argval)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _globals_of(constant)


def _wrong(function: Callable[..., Any], what: str) -> SettingsError:
    where = f"{function.__module__}.{function.__qualname__}"
    return SettingsError(f"@tool {where}: {what}")
