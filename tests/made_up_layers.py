"""A layers.json made by hand: a convolution, a shortcut around two more, a classifier."""


def call(layer, kind, inputs, shape, **changes):
    """A row of its network."""
    row = {'layer': layer, 'kind': kind, 'inputs': inputs, 'shape': shape, 'channels': shape[-1],
           'kept': shape[-1], 'is_prunable': False}
    return {**row, **changes}


LAYERS = {
    'network': [
        call('input', 'InputLayer', [], [8, 8, 3]),
        call('stem', 'Conv2D', [0], [8, 8, 16], kept=12, is_prunable=True),
        call('stage1/conv<1>', 'Conv2D', [1], [8, 8, 16], kept=7, is_prunable=True),
        call('stage1/conv2', 'Conv2D', [2], [8, 8, 16], kept=0, is_prunable=True),
        call('add', 'Add', [1, 3], [8, 8, 16], kept=12, is_prunable=True),
        call('logits', 'Dense', [4], [10])],
    'layers': [{'layer': name, 'kind': kind, 'before': before, 'after': after}
               for name, kind, before, after in (
                   ('stem', 'Conv2D', 1000, 750), ('stage1/conv<1>', 'Conv2D', 2000, 640),
                   ('stage1/conv2', 'Conv2D', 900, 500), ('logits', 'Dense', 100, 100))],
    'operators': [
        {'name': 'net_1/stem_relu_1/Relu', 'kind': 'CONV_2D', 'before_ms': 0.2, 'after_ms': 0.15},
        {'name': 'net_1/stage1_bn_1/add', 'kind': 'CONV_2D', 'before_ms': 0.2, 'after_ms': None},
        {'name': 'StatefulPartitionedCall:0', 'kind': 'FULLY_CONNECTED', 'before_ms': 0.01,
         'after_ms': 0.01}]}
