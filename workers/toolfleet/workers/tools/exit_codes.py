"""What an exit code means, where it is easily misread."""

import shlex
import signal

#: Programs whose exit code is an answer rather than a failure, by code.
_ANSWERS = {
    "grep": {1: "No lines matched, which is no error"},
    "diff": {1: "The files differ, which is no error"},
    "test": {1: "The condition is false, which is no error"},
    "find": {1: "Some places could not be looked at; the others are listed"},
    "curl": {
        6: "The host's name could not be resolved",
        7: "The host refused the connection",
        22: "The server answered with an HTTP error",
        28: "The transfer took too long",
    },
    "git": {1: "Often no error: with diff, for example, there are differences"},
    "pytest": {1: "Some tests failed", 2: "The run was interrupted", 5: "No tests were found"},
}
_SAME = {"egrep": "grep", "fgrep": "grep", "rg": "grep", "zgrep": "grep", "cmp": "diff", "[": "test", "[[": "test"}
_ALWAYS = {
    124: "Stopped by a time limit",
    126: "The command was found but could not be executed",
    127: "The command was not found",
    137: "Killed (SIGKILL), most often for lack of memory",
}
_OPERATORS = frozenset("();<>|&")


def meaning(command: str, exit_code: int) -> str | None:
    """A sentence on ``exit_code`` of ``command``; None where it means what everybody takes it for."""
    if exit_code == 0:
        return None
    if exit_code in _ALWAYS:
        return _ALWAYS[exit_code]
    if 128 < exit_code <= 128 + max(signal.valid_signals()):
        number = exit_code - 128
        name = signal.Signals(number).name if number in set(signal.Signals) else str(number)
        return f"Ended by signal {number} ({name})"
    program = _last_program(command)
    return _ANSWERS.get(_SAME.get(program, program), {}).get(exit_code)


def _last_program(command: str) -> str:
    """The program whose exit code is that of the whole command, as far as can be told without running it."""
    try:
        words = list(shlex.shlex(command.strip().rpartition("\n")[2], punctuation_chars=True, posix=True))
    except ValueError:
        return ""
    program = ""
    for word in words:
        if _OPERATORS.issuperset(word):
            program = program if {"<", ">"} & set(word) else ""
        elif not program and "=" not in word:
            program = word.rpartition("/")[2]
    return program
