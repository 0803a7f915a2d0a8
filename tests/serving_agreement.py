"""How often a served model and the Keras model it was exported from name the same class.

    python tests/serving_agreement.py RUN_DIR [--images=200]

Serves RUN_DIR/export/saved_model, sends test images of the run's data as PNG files to serve_bytes
and as pixels to serve_uint8, and compares the likeliest class with that of export/pruned.keras.
"""
import argparse
import base64
import io
import pathlib

import tfprune  # noqa: F401  (before tensorflow and keras)
import keras
import numpy as np
from PIL import Image

import serving_server
from tfprune.data.loading import load_data
from tfprune.runs import artifacts


def base64_png(image):
    """{'b64': PNG} of uint8 [H, W, 1 or 3]."""
    buffer = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(buffer, 'PNG')
    return {'b64': base64.b64encode(buffer.getvalue()).decode()}


def same_top1(url, model, images, class_names, batch_size=50):
    """{signature: images of the same class} of uint8 images [N, H, W, C]."""
    same = {'serve_uint8': 0, 'serve_bytes': 0}
    for start in range(0, len(images), batch_size):
        batch = images[start:start + batch_size]
        expected = np.argmax(model(batch.astype(np.float32), training=False), axis=-1)
        rows = predictions(url, 'serve_uint8', batch.tolist())
        same['serve_uint8'] += int(np.sum(np.argmax(rows, axis=-1) == expected))
        rows = predictions(url, 'serve_bytes', [base64_png(image) for image in batch])
        same['serve_bytes'] += sum(row['classes'][0] == class_names[index]
                                   for row, index in zip(rows, expected, strict=True))
    return same


def predictions(url, signature, instances):
    """The server's predictions; RuntimeError with its error."""
    status, answer = serving_server.ask(
        url + ':predict', {'signature_name': signature, 'instances': instances})
    if status != 200:
        raise RuntimeError(f'{signature}: HTTP {status}: {answer["error"]}')
    return answer['predictions']


def main():
    """Prints the agreement on a run's test images."""
    parser = argparse.ArgumentParser()
    parser.add_argument('run_dir', type=pathlib.Path)
    parser.add_argument('--images', type=int, default=200)
    options = parser.parse_args()
    export_dir = (options.run_dir / artifacts.EXPORT_DIR).resolve()
    dataset, given = artifacts.data_source(options.run_dir)
    data = load_data(dataset, **{**given, 'reward_images': 1, 'augment': False})
    batches = data.test_batches(options.images).as_numpy_iterator()
    images = next(batches)[0].astype(np.uint8)[:options.images]
    model = keras.models.load_model(export_dir / 'pruned.keras')
    with serving_server.running(export_dir / 'saved_model') as url:
        for signature, same in same_top1(url, model, images, data.class_names).items():
            print(f'{signature}: the same top-1 as Keras on {same} of {len(images)} images')


if __name__ == '__main__':
    main()
