"""Taking channels away: which are important, masks, gates, and surgery.

    options        by which criterion channels are ranked
    importance     criteria: the importance of each channel within its group
    masks          widths and masks: `select_channels`
    gates          masks as variables in front of the layers that mix channels: `insert_gates`
    rebuilding     a model of copies of its layers, as surgery and depth make it
    reconstruction  what kept channels tell of those that go, in the kernels that read both
    surgery        the physical removal: `prune_model`
    depth          residual blocks that can be removed: `removable_blocks`, `remove_blocks`
    sparsity       single weights that are zero

Imports `structure`, `data` and `models`. To add a criterion: a function in `importance` and a line
in CRITERIA.
"""
