"""Cases of which a part runs always and the others with the slow tests."""
import pytest


def every(step, names, also=()):
    """The names as parameters: each `step`-th, and those in `also`, run always."""
    return [name if place % step == 0 or name in also
            else pytest.param(name, marks=pytest.mark.slow) for place, name in enumerate(names)]
