"""How many examples the property tests try.

Without `SNAPSTORE_EXAMPLES` they are nearly the same ones in every run. `SNAPSTORE_EXAMPLES=20`
makes 20 times as many, and others each time.
"""

import os

from hypothesis import HealthCheck, Phase, settings

TIMES = int(os.environ.get("SNAPSTORE_EXAMPLES", "0"))

# Shrinking a failing state machine takes minutes and gigabytes, which CI has not. The example that
# failed is printed all the same.
PHASES = [Phase.explicit, Phase.generate]
if not os.environ.get("CI"):
    PHASES.append(Phase.shrink)


def examples(number, **options):
    """The settings of a property test that tries as many examples, times `SNAPSTORE_EXAMPLES`."""
    return settings(
        max_examples=number * max(TIMES, 1),
        derandomize=not TIMES,
        database=None,
        phases=PHASES,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
        **options,
    )
