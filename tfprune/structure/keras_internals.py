"""Keras' private names, all of them: what a new version of Keras may move stands here."""
import contextlib
import dataclasses
import inspect
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import keras
from keras.src import backend
from keras.src.applications.convnext import LayerScale, StochasticDepth
from keras.src.applications.inception_resnet_v2 import CustomScaleLayer
from keras.src.backend import get_keras_mask, set_keras_mask
from keras.src.backend.common import global_state
from keras.src.layers.rnn.conv_lstm import ConvLSTMCell
from keras.src.models.functional import Functional
from keras.src.ops import core, image, math, nn, numpy
from keras.src.ops.symbolic_arguments import SymbolicArguments

__all__ = ['CompiledWith', 'ConvLSTMCell', 'CustomScaleLayer', 'Functional', 'LayerScale',
           'StochasticDepth', 'SymbolicArguments', 'VariableReads', 'arguments_of_calls',
           'built_on', 'built_rank', 'casts_inputs', 'clone_model', 'compiled_with', 'core',
           'direction_of', 'first_arguments', 'function_of_loss', 'function_of_metric',
           'functions_of_lambda', 'has_own_steps', 'has_weights', 'image', 'inputs_of_call',
           'is_cast', 'is_of_keras', 'is_plain_batch_norm', 'layers_within', 'losses_of',
           'made_with', 'maker', 'mask_of', 'math', 'moments', 'nn', 'node_of', 'numpy',
           'ordered_nodes', 'origin', 'own_variables', 'projections_of', 'remember_call',
           'renormalizes', 'schedule_of', 'sequential_graph', 'standardized', 'takes_training',
           'uncompiled', 'untouched', 'value_without_autocast', 'with_mask_of', 'with_own',
           'without_random_weights']


# Layer -> arguments of its calls in composite layers that were opened.
_CALLS: weakref.WeakKeyDictionary[Any, list[Any]] = weakref.WeakKeyDictionary()


def layers_within(layer: Any, *, itself: bool = True) -> list[Any]:
    """Every layer in a layer or model, at any depth; the layer itself among them or not."""
    return list(layer._flatten_layers(include_self=itself))


def has_weights(activation: Any) -> bool:
    """Whether an activation is a layer with weights, or one that gets them at its first call."""
    return isinstance(activation, keras.layers.Layer) and bool(
        activation.weights
        or not activation.built and type(activation).build is not keras.layers.Layer.build)


def origin(tensor: Any) -> tuple[Any, int, int]:
    """(operation, index of its call, index among that call's outputs) of a symbolic tensor."""
    operation, node, index = tensor._keras_history
    return operation, node, index


def maker(tensor: Any) -> Any:
    """The layer or operation that made a symbolic tensor."""
    return origin(tensor)[0]


def inputs_of_call(operation: Any, node: int) -> Sequence[Any]:
    """The symbolic tensors that the call of this index took."""
    return operation._inbound_nodes[node].input_tensors


def made_with(layer: Any) -> dict[str, Any] | None:
    """The arguments that a layer was made with, its name apart, where all of them are plain values;
    else None."""
    given = getattr(layer, '_auto_config', None)
    return None if given is None else dict(given.config)


def takes_training(operation: Any) -> bool:
    """Whether the call of a layer or operation has a parameter for the mode."""
    return 'training' in inspect.signature(operation.call).parameters


@contextlib.contextmanager
def with_own(attributes: Iterable[tuple[Any, str, Any]]) -> Iterator[None]:
    """Within, objects have these attributes of their own, (object, name, value) each; then again
    what they had, which may be that of their class."""
    given = [(each, name, value, vars(each).get(name)) for each, name, value in attributes]
    for each, name, value, _ in given:
        vars(each)[name] = value
    try:
        yield
    finally:
        for each, name, _, before in given:
            if before is None:
                vars(each).pop(name, None)
            else:
                vars(each)[name] = before


def remember_call(layer: Any, arguments: Any) -> None:
    """Keeps the arguments of a symbolic call whose node is undone, for `arguments_of_calls`."""
    _CALLS.setdefault(layer, []).append(arguments)


def arguments_of_calls(operation: Any) -> list[dict[str, Any]]:
    """For each symbolic call of a layer or operation what it is given, by the parameter of `call`,
    in the order of Keras; of a list 'name.0', 'name.1', …"""
    parameters = list(inspect.signature(operation.call).parameters)
    calls = []
    for arguments in (*(node.arguments for node in operation._inbound_nodes),
                      *_CALLS.get(operation, ())):
        found = {}
        for path, value in keras.tree.flatten_with_path((arguments.args, arguments.kwargs)):
            is_keyword, name, *rest = path
            if not is_keyword:
                rest = rest if name < len(parameters) else [name, *rest]
                name = parameters[min(name, len(parameters) - 1)]
            found['.'.join(map(str, (name, *rest)))] = value
        calls.append(found)
    return calls


def projections_of(attention: Any) -> dict[str, str]:
    """The projections in a layer with heads, by what they make: the names of their layers."""
    names = {role: f'_{role}_dense' for role in ('query', 'key', 'value', 'gate', 'output')}
    return {role: name for role, name in names.items() if hasattr(attention, name)}


def sequential_graph(model: keras.Sequential) -> Any:
    """The functional graph inside a Sequential model; None before it is built."""
    return model._functional


def ordered_nodes(graph: Any) -> Iterator[Any]:
    """The nodes of a functional graph in the order in which Keras runs them."""
    rank = {id(operation): place for place, operation in enumerate(graph.operations)}
    for depth in sorted(graph._nodes_by_depth, reverse=True):
        yield from sorted(graph._nodes_by_depth[depth],
                          key=lambda node: rank.get(id(node.operation), -1))


def mask_of(tensor: Any) -> Any:
    """The mask of steps that a tensor carries beside its values; None without one."""
    return get_keras_mask(tensor)


def with_mask_of(source: Any, made: Any, layer: Any = None) -> Any:
    """`made` of `source`, with the mask of steps that `source` carries; by a layer, if one made it,
    which may change that mask or end it."""
    mask = mask_of(source)
    if mask is not None and layer is not None:
        mask = layer.compute_mask(source, mask) if layer.supports_masking else None
    if mask is not None:
        set_keras_mask(made, mask)
    return made


def standardized(graph: Any, inputs: Any) -> list[Any]:
    """Inputs of a functional graph as the flat list of tensors that it starts from."""
    return graph._standardize_inputs(inputs)


def is_plain_batch_norm(layer: Any) -> bool:
    """Whether a layer computes what BatchNormalization does: a subclass may do something else."""
    return all(getattr(type(layer), name, None) is getattr(keras.layers.BatchNormalization, name)
               for name in ('call', '_moments'))


def renormalizes(layer: keras.layers.BatchNormalization) -> bool:
    """Whether by batch renormalization, which Keras has from 3.13 on."""
    return getattr(layer, 'renorm', False)


def moments(layer: keras.layers.BatchNormalization, inputs: Any, mask: Any) -> tuple[Any, Any]:
    """Mean and variance of a batch as the layer takes them."""
    return layer._moments(inputs, mask)


@dataclasses.dataclass(frozen=True)
class CompiledWith:
    """Arguments of `Model.compile`, as they were given."""
    loss: Any
    loss_weights: Any
    metrics: Any
    weighted_metrics: Any


def compiled_with(model: keras.Model) -> CompiledWith | None:
    """What a model is compiled with; None where it is not compiled."""
    if not getattr(model, 'compiled', False):
        return None
    given = model._compile_config.config
    return CompiledWith(*(given.get(field.name) for field in dataclasses.fields(CompiledWith)))


def losses_of(model: keras.Model) -> list[tuple[Any, Any, float]]:
    """(path in the structure of outputs, loss, its weight) of each output that a compiled model
    has a loss for, once it has computed one."""
    built = getattr(getattr(model, '_compile_loss', None), '_flat_losses', None) or ()
    return [(each.path, each.loss, 1.0 if each.loss_weights is None else each.loss_weights)
            for each in built]


def built_rank(layer: Any) -> int:
    """The rank of the input that a layer of one input was built for."""
    (shape,) = layer._build_shapes_dict.values()
    return len(shape)


def is_of_keras(value: Any) -> bool:
    """Whether a class or function is Keras' own."""
    return str(value.__module__).partition('.')[0] == 'keras'


def function_of_loss(loss: Any) -> tuple[Any, Mapping[str, Any]]:
    """The function that a loss of Keras' wraps, and the arguments that it is called with."""
    return getattr(loss, 'fn', None), getattr(loss, '_fn_kwargs', {})


def node_of(tensor: Any) -> Any:
    """The node of the call that made a symbolic tensor."""
    operation, node, _ = tensor._keras_history
    return operation._inbound_nodes[node]


def first_arguments(layer: Any) -> Any:
    """The arguments of the first symbolic call of a layer; None of one that had none."""
    nodes = [node for node in layer._inbound_nodes if node.input_tensors]
    return nodes[0].arguments if nodes else None


def built_on(layer: Any) -> Sequence[int | None] | None:
    """The shape that a layer of one tensor was built on; None of others."""
    shapes = list((layer._build_shapes_dict or {}).values())
    if len(shapes) != 1 or shapes[0] is None or not all(
            size is None or isinstance(size, int) for size in shapes[0]):
        return None
    return shapes[0]


def casts_inputs(layer: Any) -> bool:
    """Whether a layer is called on numbers of the dtype that it computes in."""
    return layer.autocast and layer._convert_input_args


def is_cast(layer: Any, variable: Any) -> bool:
    """Whether a layer sees its variable in the dtype that it computes in."""
    return layer.autocast and variable._autocast


def own_variables(layer: Any) -> list[Any]:
    """The variables of a layer that are not those of layers in it, random streams apart."""
    return [*layer._trainable_variables, *layer._non_trainable_variables]


def value_without_autocast(variable: Any) -> Any:
    """The value of a variable in its own dtype."""
    with backend.AutocastScope(None):
        return backend.convert_to_tensor(variable.value)


@contextlib.contextmanager
def counted_names() -> Iterator[None]:
    """The numbers that Keras gives names within are given again."""
    names = global_state.get_global_attribute('object_name_uids')
    counted = None if names is None else names.copy()
    try:
        yield
    finally:
        global_state.set_global_attribute('object_name_uids', counted)


@contextlib.contextmanager
def untouched(layer: Any) -> Iterator[None]:
    """What symbolic calls within leave behind is undone: the nodes of the layers in `layer`, its
    attributes, and the numbers that Keras gives names."""
    layers, attributes = layers_within(layer), dict(vars(layer))
    nodes = [(each, list(each._inbound_nodes), list(each._outbound_nodes)) for each in layers]
    try:
        with counted_names():
            yield
    finally:
        for each, inbound, outbound in nodes:
            each._inbound_nodes[:], each._outbound_nodes[:] = inbound, outbound
        vars(layer).clear()
        vars(layer).update(attributes)


class VariableReads(backend.StatelessScope):
    """Within it no variable changes; `read` has those whose values were asked for."""

    def __init__(self) -> None:
        super().__init__(collect_losses=True)
        self.read: list[Any] = []

    def get_current_value(self, variable: Any) -> Any:
        self.read.append(variable)
        return super().get_current_value(variable)


@contextlib.contextmanager
def uncompiled(model: keras.Model) -> Iterator[None]:
    """Within, a model is not compiled: Keras would store or copy that, too, and cannot where losses
    or metrics are functions that nobody registered."""
    compiled, model.compiled = model.compiled, False
    try:
        yield
    finally:
        model.compiled = compiled


def clone_model(model: keras.Model, **options: Any) -> keras.Model:
    """keras.models.clone_model; the copy is not compiled."""
    with uncompiled(model):
        return keras.models.clone_model(model, **options)


_DRAWN = (keras.initializers.VarianceScaling, keras.initializers.RandomNormal,
          keras.initializers.RandomUniform, keras.initializers.TruncatedNormal,
          keras.initializers.Orthogonal)


@contextlib.contextmanager
def without_random_weights() -> Iterator[None]:
    """Within, weights that layers make at random are zeros: of a copy, which is given others, the
    random numbers take a quarter of the time."""
    original = keras.layers.Layer.add_weight

    def add_weight(layer: Any, *args: Any, **options: Any) -> Any:
        if len(args) < 2:  # the second is the initializer
            given = keras.initializers.get(options.get('initializer'))
            drawn = given is None or isinstance(given, _DRAWN)
            options['initializer'] = 'zeros' if drawn else given
        return original(layer, *args, **options)

    keras.layers.Layer.add_weight = add_weight
    try:
        yield
    finally:
        keras.layers.Layer.add_weight = original


def functions_of_lambda(layer: keras.layers.Lambda) -> dict[str, Any]:
    """What a Lambda was made with, but for its name, dtype and whether it trains."""
    return {'function': layer.function, 'output_shape': layer._output_shape, 'mask': layer.mask,
            'arguments': layer.arguments}


def has_own_steps(model: keras.Model) -> str:
    """Name of a method of training that a subclass of Keras' models has of its own; '' of none."""
    return next((name for name in ('train_step', 'compute_loss', 'compute_metrics', 'test_step')
                 if getattr(type(model), name) is not getattr(keras.Model, name)), '')


def schedule_of(optimizer: keras.optimizers.Optimizer) -> Any:
    """The schedule of an optimizer's learning rate; None where that is a number."""
    rate = getattr(getattr(optimizer, 'inner_optimizer', optimizer), '_learning_rate', None)
    return rate if isinstance(rate, keras.optimizers.schedules.LearningRateSchedule) else None


def direction_of(metric: Any) -> str | None:
    """'up' or 'down', which way a metric is better; None where Keras does not say."""
    return getattr(metric, '_direction', None)


def function_of_metric(metric: Any) -> Any:
    """(function, keywords) of a metric that is the mean of a function; None of others."""
    function = getattr(metric, '_fn', None)
    return None if function is None else (function, getattr(metric, '_fn_kwargs', None))
