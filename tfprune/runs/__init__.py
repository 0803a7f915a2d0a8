"""One run and many runs: from a configuration to a run folder with all that users load.

    api            `train_and_prune`: a configuration, or a model and datasets of one's own
    own_model, task_file
                   a user's model and data, from Python and from a file: what is learnt
    learning       the task of a run, and whether it can be learnt
    own_training   `prune_to_budget`, `search_widths`: nothing is trained, any score
    config         `Config`: the parts that packages define, by the names of their flags
    run            the steps of a run, in their order; each is a function of (state, problem):
    opening, problem, given, restoring, pretraining, searching, surgery, fine_tuning, outcome
    announcement   what is said before the first epoch, and how long a run takes
    state          what a run has come to: `State`
    epochs         the epoch loop, before surgery and after
    user_callbacks
                   Keras' callbacks around it
    recipe, recipe_choice, first_epoch, known_augmentation
                   a model that comes with weights is trained on as it was trained
    deployment, artifacts, answers
                   export and measurements
    folder, checkpoints, decision_files, lost_parts, reuse
                   what is on disk, and how a run goes on from it
    beforehand, checks
                   what is wrong with a configuration, before anything is made of it
    comparison     many runs: methods, seeds and budgets

To add a step: a file with such a function, and its line in `run`. Imports every other package but
`benchmarks`.
"""
