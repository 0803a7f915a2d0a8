"""How weights are trained: steps, batch normalization, replicas, the account of epochs.

    options        what is asked of training: `TrainingOptions`, `Epochs`
    step           a training step and an epoch under tf.distribute: `Trainer`
    evaluation     metrics of a model: `Evaluator`
    batch_norm     batch normalization: found, fused, synchronized, its statistics re-estimated
    fused_norm     the fused kernels, of any number of channels
    distribution   replicas of one process, or several worker processes
    teacher        a teacher's share of the loss, and its schedules
    distillation   small models trained on the logits of the dense one
    rate_test      a learning rate for weights that were given
    account        what a search costs, in epochs of training
    seeding        the seeds of all random streams

Imports `pruning` and what that imports.
"""
