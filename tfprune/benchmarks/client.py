"""What a user does with a pruned .keras file: load, predict, train a step, convert. No tfprune.

Run as a script: python client.py pruned.keras
"""

import json
import sys
import zipfile
from typing import Any

import keras
import numpy as np
import tensorflow as tf


def main(path: str) -> None:
    """Prints what was done as one line of JSON, `tflite` the error of a conversion that fails; any
    other failure is an exception."""
    if b'keras_hub' in zipfile.ZipFile(path).read('config.json'):
        import keras_hub  # noqa: F401  (registers the layers that the file names)
    model = keras.models.load_model(path)
    rng = np.random.default_rng(0)
    inputs = [rng.normal(size=(2, *x.shape[1:])).astype(x.dtype) for x in model.inputs]
    logits = model.predict(inputs, verbose=0)
    try:
        row = tflite(model, inputs, logits)
    except Exception as error:
        row = {'tflite': f'{type(error).__name__}: {" ".join(str(error).split())[:300]}'}
    model.compile('sgd', keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    loss = float(model.train_on_batch(inputs, np.zeros(logits.shape[:-1], np.int64)))
    if 'tfprune' in sys.modules:
        raise RuntimeError('the file imports tfprune')
    if not np.isfinite(logits).all():
        raise RuntimeError('the outputs are not finite')
    print(json.dumps({**row, 'loss': loss}))


def tflite(model: keras.Model, inputs: list[np.ndarray], logits: np.ndarray) -> dict[str, Any]:
    """The size of the TFLite file and how far its outputs for the first input are from Keras'."""
    lite, unrolled = convert(model)
    interpreter = tf.lite.Interpreter(model_content=lite)
    interpreter.allocate_tensors()
    for place in interpreter.get_input_details():
        number, = (i for i, x in enumerate(model.inputs)  # of the names that TensorFlow gives them
                   if len(inputs) == 1 or x.name in place['name'])
        interpreter.set_tensor(place['index'], inputs[number][:1])
    interpreter.invoke()
    out = interpreter.get_tensor(interpreter.get_output_details()[0]['index'])
    difference = float(np.abs(out - logits[:1]).max() / np.abs(logits[:1]).max())
    return {'tflite_bytes': len(lite), 'tflite_difference': difference, 'unrolled': unrolled}


def convert(model: keras.Model) -> tuple[bytes, bool]:
    """A TFLite file, and whether it took recurrent layers that are unrolled."""
    try:
        return tf.lite.TFLiteConverter.from_keras_model(model).convert(), False
    except Exception:
        parts = [part for layer in model.layers for part in (
            layer, getattr(layer, 'forward_layer', None), getattr(layer, 'backward_layer', None))]
        recurrent = [part for part in parts if isinstance(part, keras.layers.RNN)]
        if not recurrent:
            raise
        for layer in recurrent:
            layer.unroll = True
        return tf.lite.TFLiteConverter.from_keras_model(model).convert(), True


if __name__ == '__main__':
    main(sys.argv[1])
