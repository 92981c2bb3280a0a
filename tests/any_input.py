"""`holds_for` checks something for many inputs that hypothesis makes, the same ones in every run."""

from hypothesis import HealthCheck, given, settings


def holds_for(inputs, check, *, examples):
    """Call `check` with that many inputs; one that fails is made as small as possible, and shown.

    Examples follow from the test itself, and nothing is kept between runs: what fails on one machine fails on
    each. Time is not looked at, since machines that test are busy.
    """
    quiet = settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    quiet(given(inputs)(check))()
