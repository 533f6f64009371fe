"""The command line of a script: flags that scripts share; a wrong override is one sentence, not a traceback."""

from collections.abc import Sequence
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags


def parse(argv: list[str], values: flags.FlagValues = flags.FLAGS) -> list[str]:
    """`flags_parser` of `absl.app.run`; `values` are the flags to read.

    Returns:
        The arguments that are no flags.

    Raises:
        SystemExit: for a flag, a config file or an override that does not exist or is of the wrong type.
    """
    try:
        return values(argv)
    except flags.Error as error:
        text = str(error).strip()
        if "Traceback" in text:  # of the config file itself; its last line is "ValueError: what is wrong"
            text = text.splitlines()[-1].partition(": ")[2]
        raise SystemExit(f"{argv[0]}: {text}") from None
    except (AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        # ml_collections passes a KeyError's text on, which is a repr: quoted, with escapes.
        reason = str(error).replace("\\n", " ").replace("\\'", "'").replace("'", "").strip('"')
        given = [argument for argument in argv[1:] if argument.startswith("--config")]
        raise SystemExit(f"{argv[0]}: {reason} (in {' '.join(given)}). Every setting is in configs/common.py") from None


def read_config(program: str, path: str, overrides: Sequence[str] = ()) -> ConfigDict:
    """The experiment that a command names, as `train.py` would see it.

    Args:
        program: whose command line it is, for messages.
        path: of a file of `configs/`.
        overrides: `--config.…` arguments.

    Raises:
        SystemExit: for a file or an override that does not exist or is of the wrong type, or another argument.
    """
    values = flags.FlagValues()
    arguments = [program, f"--config={path}", *overrides]
    config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=arguments)
    left = parse(arguments, values)[1:]
    if left:
        raise SystemExit(f"{program}: unknown arguments {left}")
    try:
        return values.config.copy_and_resolve_references()
    except OSError as error:
        raise SystemExit(f"{program}: {path}: {str(error).splitlines()[-1].strip()}") from None


def define_processes() -> None:
    """The flags that say which process of several this is."""
    flags.DEFINE_string("coordinator_address", None, "host:port of the first process, where a launcher does not say.")
    flags.DEFINE_integer("num_processes", None, "How many processes there are; 1 is this one alone.", lower_bound=1)
    flags.DEFINE_integer("process_id", None, "Number of this process, from 0.", lower_bound=0)
    flags.DEFINE_integer("heartbeat_timeout_s", 100, "Silence after which a process counts as dead.", lower_bound=1)


def processes() -> dict[str, Any]:
    """Their values, as `vitpose_jax.training.processes.joined` takes them."""
    names = ("coordinator_address", "num_processes", "process_id", "heartbeat_timeout_s")
    return {name: flags.FLAGS[name].value for name in names}


def define_profile() -> None:
    """The flag that says which steps to trace."""
    flags.DEFINE_list("profile", [], "First and last step to trace, counted from where this call starts: 10,12")


def profile() -> list[int]:
    """Its value. Raises ValueError if it is no list of numbers."""
    return [int(step) for step in flags.FLAGS.profile]
