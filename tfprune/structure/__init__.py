"""What a Keras model is made of: its graph, its layers' rules, its channel groups.

    options        which groups may be pruned
    composite      layers of a user's own, opened: what their calls are made of
    composite_nodes  these calls: compared, and made to fit any batch
    composite_calls  what layers within do that Keras' graphs cannot have
    composite_batch  those of layers that compute with the size of the batch
    parameter      their own weights as steps of the graph
    graph          the calls of a model in order, nested models and composite layers unfolded
    layer_rules    one class a layer: how channels flow through it, its weights, its costs
    groups         which channels are removed together: `trace_groups`
    layout         the traced model in integers: what stands at each channel of each tensor
    copies         copies of layers by their configs, and what no config can hold
    layer_state    what layers keep beside the weights that train
    moving_statistics  whose moving statistics a pass updates
    other_weights  calling a layer with other values of its weights

Imports nothing of the package but its top modules. To add a layer: a `LayerRule` in the file of its
family in `layer_rules`, and a line in that file's RULES.
"""
