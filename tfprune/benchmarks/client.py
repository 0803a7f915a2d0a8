"""What a user does with a pruned .keras file: load, predict, train a step, convert. No tfprune.

Run as a script: python client.py pruned.keras
"""

import json
import sys

import keras
import numpy as np
import tensorflow as tf


def main(path: str) -> None:
    """Prints what was done as one line of JSON; any failure is an exception."""
    model = keras.models.load_model(path)
    shape = (2, *model.input_shape[1:])
    images = np.random.default_rng(0).uniform(0, 255, shape).astype(np.float32)
    logits = model.predict(images, verbose=0)
    lite = tf.lite.TFLiteConverter.from_keras_model(model).convert()
    interpreter = tf.lite.Interpreter(model_content=lite)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]['index'], images[:1])
    interpreter.invoke()
    out = interpreter.get_tensor(interpreter.get_output_details()[0]['index'])
    difference = float(np.abs(out - logits[:1]).max() / np.abs(logits[:1]).max())
    model.compile('sgd', keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    loss = float(model.train_on_batch(images, np.zeros(2, np.int64)))
    if 'tfprune' in sys.modules:
        raise RuntimeError('the file imports tfprune')
    if not np.isfinite(logits).all():
        raise RuntimeError('the outputs are not finite')
    print(json.dumps({'tflite_bytes': len(lite), 'tflite_difference': difference, 'loss': loss}))


if __name__ == '__main__':
    main(sys.argv[1])
