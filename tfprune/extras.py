"""Libraries that a plain installation leaves out, and the extras that bring them."""
import importlib.util
import sys
from typing import NamedTuple

from tfprune._legacy import require_legacy_keras


class Extra(NamedTuple):
    """What `pip install 'tfprune[NAME]'` brings.

    called: the library, as its makers call it.
    modules: that are imported from it.
    below: the first Python that it has no release for; None for none known.
    """
    called: str
    modules: tuple[str, ...]
    below: tuple[int, int] | None = None


# As in setup.cfg.
EXTRAS = {
    'rl': Extra('TF-Agents', ('tf_agents', 'tensorflow_probability', 'tf_keras'), (3, 12)),
    'qat': Extra('TensorFlow Model Optimization', ('tensorflow_model_optimization', 'tf_keras')),
    'datasets': Extra('tensorflow-datasets', ('tensorflow_datasets',)),
}
_KERAS2 = ('rl', 'qat')


class MissingExtraError(ImportError):
    """What was asked for needs a library that is not installed.

    extra: the key of EXTRAS that brings it.
    """

    def __init__(self, message: str, extra: str):
        super().__init__(message)
        self.extra = extra


def is_installed(extra: str) -> bool:
    """Whether all of its modules can be imported; none is."""
    return all(importlib.util.find_spec(module) for module in EXTRAS[extra].modules)


def need(extra: str, what: str, otherwise: str = '') -> None:
    """Says what is missing before it is imported.

    Args:
        extra: a key of EXTRAS.
        what: needs it, for the message: "method 'rlal'".
        otherwise: what may be taken in its place, a sentence.

    Raises:
        MissingExtraError: it is not installed; says how it is.
        ImportError: TensorFlow was imported without the Keras 2 that it needs.
    """
    if is_installed(extra):
        if extra in _KERAS2:
            require_legacy_keras()
        return
    called, _, below = EXTRAS[extra]
    message = f'{what} needs {called}: pip install {quoted(extra)}'
    if below and sys.version_info >= below:
        message += (f', in Python {below[0]}.{below[1] - 2} or {below[0]}.{below[1] - 1}: it has '
                    f'no release for {sys.version_info[0]}.{sys.version_info[1]}')
    raise MissingExtraError(f'{message}.{otherwise and " " + otherwise}', extra)


def quoted(extra: str) -> str:
    """What pip is given, as a shell takes it."""
    return f"'tfprune[{extra}]'"


def missing_in(error: BaseException | None) -> str:
    """The extra whose lack an error comes from; '' for another error."""
    while error is not None:
        if isinstance(error, MissingExtraError):
            return error.extra
        if isinstance(error, ModuleNotFoundError):
            top = (error.name or '').partition('.')[0]
            return next((name for name, extra in EXTRAS.items() if top in extra.modules), '')
        error = error.__cause__
    return ''
