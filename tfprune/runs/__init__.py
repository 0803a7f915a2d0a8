"""One run and many runs: from a configuration to a run folder with all that users load.

    api            `train_and_prune`: a configuration, or a model and datasets of one's own
    trainer        one configuration in one run folder
    problem        what a run works on, made before its first epoch
    given, recipe, recipe_choice, first_epoch, known_augmentation
                   a model that comes with weights: measured, trained on as it was trained
    phases, epochs the epochs before surgery, the search, the decision, the epochs after it
    outcome, deployment, artifacts
                   the end: export, measurements, report
    folder, checkpoints, lost_parts, reuse
                   what is on disk, and how a run goes on from it
    comparison     many runs: methods, seeds and budgets

Imports every other package but `benchmarks`.
"""
