"""Dense models by name; none is imported before it is used."""

import importlib
import pathlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import keras


def _from(module: str, **options: Any) -> Callable[..., 'keras.Model']:
    """A builder of a module of this package, with some of its arguments."""
    function = options.pop('function', 'build')

    def build(**others: Any) -> 'keras.Model':
        made = importlib.import_module(f'tfprune.models.{module}')
        return getattr(made, function)(**options, **others)

    return build


MODELS: dict[str, Callable[..., 'keras.Model']] = {
    **{f'resnet{depth}': _from('resnet_cifar', depth=depth) for depth in (8, 20, 32, 44, 56, 110)},
    **{f'resnet{depth}': _from('resnet', depth=depth, small_images=False)
       for depth in (18, 34, 50)},
    **{f'resnet{depth}_cifar': _from('resnet', depth=depth, small_images=True)
       for depth in (18, 34, 50)},
    'mobilenet_v1': _from('mobilenet', function='build_v1', small_images=False),
    'mobilenet_v2': _from('mobilenet', function='build_v2', small_images=False),
    'mobilenet_v1_cifar': _from('mobilenet', function='build_v1', small_images=True),
    'mobilenet_v2_cifar': _from('mobilenet', function='build_v2', small_images=True),
    'vit_cifar': _from('vit', patch=4, width=96, depth=6, heads=3, mlp_ratio=2),
    'vgg16_bn_cifar': _from('vgg', depth=16),
    'vgg19_bn_cifar': _from('vgg', depth=19),
}


def is_path(name: str) -> bool:
    """Whether `name` looks like a path, or is one."""
    path = pathlib.Path(name)
    return bool(name) and bool(path.suffix or len(path.parts) > 1 or path.exists())


def is_model_file(name: str) -> bool:
    """Whether `name` is meant as the path of a user's model; a name of MODELS comes first."""
    return name not in MODELS and is_path(name)
