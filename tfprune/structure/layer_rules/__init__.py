"""One rule per layer class: all that tfprune knows about a layer.

Grouping, gates, surgery, cost, criteria and alignment ask the rule and know nothing of layers, so
they cannot disagree. A new layer type is one `LayerRule` subclass in the file of its family and one
line in that file's `RULES`.

From outside of the package: `register_rule(MyLayer, MyRule())`, see there.

A rule is found by the exact class: a subclass may override `call`, so it has no rule until it gets
its own line. A layer without a rule, or one that its rule refuses, freezes the groups it touches.
"""

from typing import Any

import keras

from tfprune.structure.layer_rules import (activations, arrangement, attention, einsum, kernels,
                                           merging, normalization, operations, parameters,
                                           recurrent, reshaping, shapes, wrappers)
from tfprune.structure.layer_rules.base import (SAME_IN_KERAS2, Call, Channels, Channelwise,
                                                Keras2Layer, Kept, Labels, LayerRule, MacTerm,
                                                Shape, Tracer, WeightAxes, WeightAxis)
from tfprune.structure.layer_rules.paths import drops_paths

__all__ = ['RULES', 'SAME_IN_KERAS2', 'Call', 'Channels', 'Keras2Layer', 'Kept', 'Labels',
           'LayerRule', 'MacTerm', 'Shape', 'Tracer', 'WeightAxes', 'WeightAxis', 'find_rule',
           'has_rule', 'register_rule', 'rule_of']

RULES: dict[type[keras.Operation], LayerRule] = {
    **kernels.RULES, **normalization.RULES, **activations.RULES, **merging.RULES, **shapes.RULES,
    **operations.RULES, **arrangement.RULES, **reshaping.RULES, **einsum.RULES,
    **attention.RULES, **parameters.RULES, **recurrent.RULES}


def register_rule(layer_class: type[keras.Operation], rule: LayerRule) -> None:
    """Tells tfprune of a layer of one's own; a rule that the class has is replaced.

        class Scale(keras.layers.Layer): …            # y = x * self.factor, factor [C]

        class ScaleRule(tfprune.LayerRule):
            def weight_axes(self, layer):
                return (tfprune.WeightAxes('factor', out_axis=0),)

        tfprune.register_rule(Scale, ScaleRule())

    From then on its channels are grouped, gated, pruned, counted and ranked as those of any layer.
    A rule that holds for less than it says is found by `tfprune.testing.check_promises(model)`.
    With `--custom_layers=FILE` the call stands in that file, below the class.

    Args:
        layer_class: a class of layers; subclasses need a rule of their own.
        rule: what differs from `LayerRule`, a layer that treats each channel by itself.

    Raises:
        TypeError: for anything else.
    """
    if not (isinstance(layer_class, type) and issubclass(layer_class, keras.Operation)):
        raise TypeError(f'layer_class: expected a class of Keras layers, received {layer_class!r}')
    if not isinstance(rule, LayerRule):
        raise TypeError(f'rule: expected an instance of a LayerRule, received {rule!r}')
    RULES[layer_class] = rule


def has_rule(layer: Any) -> bool:
    """Whether a layer or operation has a rule."""
    return rule_of(layer) is not None


def rule_of(layer: Any) -> LayerRule | None:
    """Returns the rule of a layer or operation: that of its class, or of what it does; or None."""
    rule = RULES.get(type(layer))
    return _DROPS_PATHS if rule is None and drops_paths(layer) else rule


_DROPS_PATHS = Channelwise()


def find_rule(call: Call) -> tuple[LayerRule | None, str | None]:
    """Returns the rule of the layer that is called, or None and the reason why there is none.

    Raises:
        ValueError: for a layer on channels-first images.
    """
    layer = call.layer
    rule = rule_of(layer)
    if (getattr(layer, 'data_format', None) == 'channels_first'
            and not (rule and rule.takes_channels_first)):
        raise ValueError(f"layer '{layer.name}' ({call.kind}) has data_format='channels_first', "
                         "where 'channels_last' is expected of the whole model")
    if rule is None:
        return None, f"touches layer '{layer.name}' ({call.kind}), which has no rule"
    elsewhere = [axis for axis in call.axes if axis != -1 and not rule.any_axis]
    reason = (f'has its channels on axis {elsewhere[0]}, where the last is expected' if elsewhere
              else rule.refuse(call))
    behind = [axis for axis in call.images if axis]
    if reason is None and behind and not rule.any_axis:
        reason = f'has its images on axis {behind[0]}, where the first is expected'
    if reason is None and len(call.output_shapes) != 1 and not rule.many_outputs:
        reason = f'has {len(call.output_shapes)} outputs, where one is expected'
    if (reason is None and not rule.static_weights
            and len(rule.weight_axes(layer)) != len(getattr(layer, 'weights', ()))):
        reason = 'has weights that its rule does not know'
    if reason is not None:
        return None, f"touches layer '{layer.name}' ({call.kind}), which {reason}"
    return rule, None


RULES.update(wrappers.rules_of_wrappers(RULES, find_rule))
