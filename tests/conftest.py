"""Prepares TensorFlow before any test module imports it; tests of clients only on demand."""
import pytest

import tfprune  # noqa: F401


def pytest_collection_modifyitems(config, items):
    """Skips tests marked `clients`, which install packages, unless -m names them."""
    if 'clients' in (config.option.markexpr or ''):
        return
    skip = pytest.mark.skip(reason='installs MediaPipe into an environment of its own: -m clients')
    for item in items:
        if 'clients' in item.keywords:
            item.add_marker(skip)
