"""What a model costs at any widths, in exact integers, and the budgets that limit it.

    model          `CostModel`: multiply-adds, parameters, peak memory, latency by a table
    options        what the pruned model may cost
    budget         a bound on each action of a search, so that no decision misses the budget
    analysis       what can be pruned of a model, before any training
    multiply_adds  of TensorFlow's operators, and of a function, by running it
    running        what a layer without a rule multiplies

Imports `pruning` and what that imports.
"""
