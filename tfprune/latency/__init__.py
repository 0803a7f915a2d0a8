"""Predicting time: a table of measured operator times, interpolated in widths.

    table          `LatencyTable`: latency as a function of widths
    build          makes a table: which operators a model has, and their times here
    phone          a table measured on another device by TensorFlow Lite's benchmark_model
    prediction     what a table predicted, beside what was measured

Imports `export` and what that imports.
"""
