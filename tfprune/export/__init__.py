"""Export: a pruned model as the files that its users load, compared and counted.

    exporter       `export_model`, and FORMATS by name
    base           what a format is: `Format`; what a model takes and gives: `Signature`
    options        what is asked of the files
    keras_file, saved_model, tflite, quantization_aware
                   formats
    examples       what forms are compared and timed on
    parity         agreement of the forms of one model
    latency        times of TFLite files
    operators, operator_cost, flatbuffer, metadata
                   what is in a file
    serving, warmup, image_bytes
                   SavedModels that are served
    web            a page that classifies in the browser

To add a format: a file with a `Format`, and a line in FORMATS; from outside
`FORMATS[name] = format`. Imports `costs`, `training` and what these import.
"""
