"""The `hpt` command: finds the verb, and turns what goes wrong into one line and an exit code."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import os
import sys
import traceback
from collections.abc import Sequence

import click

from agentic_hpt.cli.common import Session, debug_option, say_error
from agentic_hpt.errors import HptError

__all__ = ["main"]

VERBS = {
    "run": "Run a study from a study file or for a built-in task.",
    "resume": "Go on with a study that was stopped.",
    "steer": "Leave a note that a study's next decision must see.",
    "status": "Show how the studies, or one of them, stand.",
    "trials": "List a study's trials.",
    "decisions": "List what was decided after each round, and why.",
    "explain": "Tell in plain words what was decided, why, and what it brought.",
    "best": "Show the best configuration found.",
    "report": "Write a study's report as one HTML page.",
    "ui": "Open a study's runs in MLflow's web page.",
    "uplift": "Measure a model against the rules and against shuffled outcomes.",
    "move": "Move a study from the home's files into a database.",
    "init": "Write a study file in which every key is explained.",
    "doctor": "Check the installation, the home and the stores.",
}
"""The verbs with their short help, kept here so that `hpt --help` imports none of them."""


class _LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in VERBS:
            command: click.Command = importlib.import_module(f"agentic_hpt.cli.{cmd_name}").command
            return command
        if cmd_name.startswith("-"):
            return None
        near = difflib.get_close_matches(cmd_name, VERBS, n=1)
        ctx.fail(f"there is no verb {cmd_name!r}; {f'did you mean {near[0]!r}?' if near else 'see hpt --help'}")

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl(list(VERBS.items()))


@click.group(
    cls=_LazyGroup, subcommand_metavar="VERB [ARGS]...", context_settings={"help_option_names": ["-h", "--help"]}
)
@click.version_option(package_name="agentic-hpt", prog_name="hpt")
@debug_option
def app() -> None:
    """Tune the hyperparameters of a training job, and explain what was done."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and give its exit code.

    0 finished, 1 the study failed, 2 bad input, 3 stopped with work left, 130 Ctrl-C.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a terminal that can't show a character must not end the command
            stream.reconfigure(errors="backslashreplace")
    session = Session()
    try:
        code = app.main(args=arguments, prog_name="hpt", obj=session, standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        say_error("interrupted", "a study that was running can be continued by `hpt resume NAME`")
        return 130
    except BrokenPipeError:
        _forget_stdout()
        return 1
    except HptError as error:
        _show_traceback(session)
        say_error(error.message, error.hint)
        return error.exit_code
    except Exception as error:
        _show_traceback(session)
        say_error(f"{type(error).__name__}: {error}", "" if session.debug else "--debug shows where it happened")
        return 1
    return code if isinstance(code, int) else 0


def _show_traceback(session: Session) -> None:
    if session.debug:
        from agentic_hpt.config import mask_secrets

        sys.stderr.write(mask_secrets(traceback.format_exc()))


def _forget_stdout() -> None:
    """Send what is still buffered nowhere: the reader is gone, and Python's own flush at exit would complain."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
