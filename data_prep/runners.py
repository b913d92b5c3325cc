"""Which Apache Beam runner carries out the work, if any: on one machine processes do it without Beam."""

from tfbert import checks

RUNNERS = ("DirectRunner", "FlinkRunner", "SparkRunner", "DataflowRunner", "PortableRunner")
HELP = (
    "Carry out the work as an Apache Beam pipeline (requirements-beam.txt). Beam's own options stand behind --, "
    "e.g. --runner=FlinkRunner -- --flink_master=HOST:8081."
)


def pipelines(runner):
    """The module `data_prep.beam_pipelines`, which can be imported only where Beam is installed.

    Args:
        runner: One of `RUNNERS`, for the error.

    Raises:
        InputError: it is not.
    """
    try:
        import apache_beam  # noqa: F401
    except ModuleNotFoundError as e:
        raise checks.error(
            "--runner must have Apache Beam installed",
            str(e),
            f"--runner={runner}",
            "pip install -r requirements-beam.txt, or leave --runner out: then processes of this machine do the work",
        ) from e
    from data_prep import beam_pipelines

    return beam_pipelines


def check_options(runner, options):
    """Raises `InputError` for options that stand behind -- without a --runner to take them."""
    checks.require(
        runner or not options,
        "options behind -- are for the Beam runner, which must be given with --runner",
        " ".join(options),
        do=f"Pass --runner={'|'.join(RUNNERS)}",
    )
