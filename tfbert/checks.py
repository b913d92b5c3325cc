"""The one wording of errors: what must hold, what came, where, what to do."""

import sys

from absl import app


class InputError(ValueError):
    """What the user gave cannot be used.

    Programs print its message alone and exit with its status: a traceback would
    hide the sentence that helps.
    """

    status = 2


class TryAgain(InputError):
    """What was given may be right, and the same command may succeed later."""

    status = 75  # EX_TEMPFAIL of sysexits.h


def error(must, got, where=None, do=None):
    """Words an `InputError`.

    Args:
        must: What must hold, as a sentence without its full stop.
        got: What came instead, `name=value` where there is a name.
        where: File, record, flag or tensor at which it came.
        do: What the user can do about it.

    Returns:
        The `InputError`, to be raised by the caller.
    """
    text = f"{must}; got {got}"
    if where:
        text += f" (at {where})"
    text += "."
    if do:
        text += f" {do}"
        if not do.endswith((".", "?", "!")):
            text += "."
    return InputError(text)


def require(ok, must, got, where=None, do=None):
    """Raises the `InputError` of `error(must, got, where, do)` unless `ok`."""
    if not ok:
        raise error(must, got, where, do)


def run_program(main, foreign_flags=False):
    """Runs an absl `main(argv)`; an `InputError` ends it with its status and its message.

    Args:
        main: The program.
        foreign_flags: Whether it takes flags of another program, which stand behind `--` and are argv[1:].
    """

    def guarded(argv):
        if any(not (foreign_flags and argument.startswith("--")) for argument in argv[1:]):
            print(f"error: no positional arguments are taken; got {argv[1:]}.", file=sys.stderr)
            return 2
        try:
            return main(argv)
        except InputError as e:
            print(f"error: {e}", file=sys.stderr)
            return e.status

    app.run(guarded)
