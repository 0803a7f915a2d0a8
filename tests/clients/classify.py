"""What an app does: opens a .tflite file with MediaPipe Tasks and with LiteRT; knows no tfprune.

    pip install mediapipe ai-edge-litert
    python tests/clients/classify.py model.tflite images.npy [--clients mediapipe,litert]

images.npy: uint8 [N, H, W, 3], or an .npz with an array `images`. Prints one line of JSON:
{client: {"top1": [N class indices], "names": [N class names or null], "scores": [N first scores]}}.
Errors of a client are {"error": its message}.
"""
import argparse
import json

import numpy as np


def mediapipe_answers(path, images):
    """MediaPipe's ImageClassifier: pre- and post-processing by the file's metadata."""
    import mediapipe
    from mediapipe.tasks import python as tasks

    options = tasks.vision.ImageClassifierOptions(
        base_options=tasks.BaseOptions(model_asset_path=path), max_results=1)
    found = []
    with tasks.vision.ImageClassifier.create_from_options(options) as classifier:
        for pixels in images:
            image = mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB,
                                    data=np.ascontiguousarray(pixels))
            found.append(classifier.classify(image).classifications[0].categories[0])
    return {'top1': [category.index for category in found],
            'names': [category.category_name for category in found],
            'scores': [category.score for category in found]}


def litert_answers(path, images):
    """LiteRT's interpreter, an image at a time; integers are quantized as the tensors say."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(path)
    interpreter.allocate_tensors()
    source, = interpreter.get_input_details()
    sink, = interpreter.get_output_details()
    outputs = []
    for pixels in images:
        interpreter.set_tensor(source['index'], to_tensor(pixels[np.newaxis], source))
        interpreter.invoke()
        output = interpreter.get_tensor(sink['index'])[0]
        scale, zero_point = sink['quantization']
        outputs.append(scale * (output.astype(float) - zero_point) if scale else output)
    return {'top1': [int(np.argmax(output)) for output in outputs],
            'names': [None] * len(outputs), 'scores': [float(max(output)) for output in outputs]}


def to_tensor(pixels, detail):
    """Raw pixels in the type and quantization of an input tensor."""
    scale, zero_point = detail['quantization']
    if not scale:
        return pixels.astype(detail['dtype'])
    limits = np.iinfo(detail['dtype'])
    return np.clip(np.round(pixels / scale) + zero_point, limits.min,
                   limits.max).astype(detail['dtype'])


CLIENTS = {'mediapipe': mediapipe_answers, 'litert': litert_answers}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('model')
    parser.add_argument('images')
    parser.add_argument('--clients', default='mediapipe,litert')
    arguments = parser.parse_args()
    images = np.load(arguments.images)
    images = images['images'] if isinstance(images, np.lib.npyio.NpzFile) else images
    answers = {}
    for name in arguments.clients.split(','):
        try:
            answers[name] = CLIENTS[name](arguments.model, images)
        except (RuntimeError, ValueError) as error:
            answers[name] = {'error': str(error)}
    print(json.dumps(answers))


if __name__ == '__main__':
    main()
