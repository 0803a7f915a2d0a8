"""Sets the environment variables that must stand before TensorFlow is imported.

TF-Agents and TensorFlow Model Optimization are Keras 2 libraries: they need `tf_keras`, which
TensorFlow hands out only when TF_USE_LEGACY_KERAS=1 is set before its first import. Where there is
no tf_keras, nothing can need it, and `tf.keras` stays what it is. The networks that tfprune prunes
are Keras 3 models on the TensorFlow backend.
"""
import importlib.util
import os
import sys

_TRUE = ('1', 'true', 'True')
LOG_LEVEL = 'TF_CPP_MIN_LOG_LEVEL'
LOG_LEVEL_IS_USERS = LOG_LEVEL in os.environ


def prepare() -> None:
    """Prepares the environment, as far as it is not too late; see `require_legacy_keras`."""
    if 'tensorflow' not in sys.modules and importlib.util.find_spec('tf_keras'):
        os.environ.setdefault('TF_USE_LEGACY_KERAS', '1')
    backend = os.environ.setdefault('KERAS_BACKEND', 'tensorflow')
    if backend != 'tensorflow':
        raise ImportError('tfprune needs the TensorFlow backend of Keras; '
                          f'KERAS_BACKEND is {backend!r}.')
    os.environ.setdefault(LOG_LEVEL, '2')


def require_legacy_keras() -> None:
    """ImportError when TensorFlow was imported without what Keras 2 libraries need."""
    if os.environ.get('TF_USE_LEGACY_KERAS') not in _TRUE:
        if 'tensorflow' in sys.modules:
            raise ImportError(
                'import tfprune before tensorflow and keras, or set TF_USE_LEGACY_KERAS=1 in the '
                'environment: TF-Agents and TensorFlow Model Optimization need the Keras 2 that '
                'TensorFlow then provides.')
        os.environ['TF_USE_LEGACY_KERAS'] = '1'


def hush_gym() -> None:
    """TF-Agents imports gym, which prints that it has a successor: nothing for our users."""
    try:
        from gym_notices import notices
    except ImportError:
        return
    notices.notices.clear()


prepare()
hush_gym()
