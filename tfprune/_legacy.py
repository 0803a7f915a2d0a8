"""Sets the two environment variables that must stand before TensorFlow is imported.

TF-Agents and TensorFlow Model Optimization are Keras 2 libraries: they need `tf_keras`, which
TensorFlow hands out only when TF_USE_LEGACY_KERAS=1 is set before its first import. The networks
that tfprune prunes are Keras 3 models on the TensorFlow backend.
"""
import os
import sys

_TRUE = ('1', 'true', 'True')


def require_legacy_keras() -> None:
    """Prepares the environment; ImportError when TensorFlow was imported without it."""
    if os.environ.get('TF_USE_LEGACY_KERAS') not in _TRUE:
        if 'tensorflow' in sys.modules:
            raise ImportError(
                'import tfprune before tensorflow and keras, or set TF_USE_LEGACY_KERAS=1 in the '
                'environment: TF-Agents needs the Keras 2 that TensorFlow then provides.')
        os.environ['TF_USE_LEGACY_KERAS'] = '1'
    backend = os.environ.setdefault('KERAS_BACKEND', 'tensorflow')
    if backend != 'tensorflow':
        raise ImportError('tfprune needs the TensorFlow backend of Keras; '
                          f'KERAS_BACKEND is {backend!r}.')
    os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')


def hush_gym() -> None:
    """TF-Agents imports gym, which prints that it has a successor: nothing for our users."""
    try:
        from gym_notices import notices
    except ImportError:
        return
    notices.notices.clear()


require_legacy_keras()
hush_gym()
