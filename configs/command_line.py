"""Reading the command line of a script: a wrong override of a config is one sentence, not a traceback."""

from absl import flags


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
