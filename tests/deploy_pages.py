"""The code of tfprune/export/deploy/*.md, run as it stands there on picture files.

    python tests/deploy_pages.py RUN_DIR PICTURES --python=CLIENTS/bin/python [--images=200]

Of a run on a folder of pictures: how often the code of each page, and the page of export/web in a
headless Chromium, name the class that export/pruned.keras names. PICTURES is a folder of class
folders, of which equally spaced files are taken. --python has the packages of the pages; tf2onnx is
run by the interpreter of this script.
"""
import argparse
import json
import os
import pathlib
import platform
import re
import subprocess
import sys
import tempfile

import tfprune  # noqa: F401  (before keras)
import keras
import numpy as np
from PIL import Image

import litert_js
import serving_server
import web_page
from tfprune.data.decoding import decode
from tfprune.machine import processor

ROOT = pathlib.Path(__file__).parents[1]
PAGES = ROOT / 'tfprune/export/deploy'
BLOCK = re.compile(r'^```(\w+)\n(.*?)^```$', re.M | re.S)
# page -> what its code needs beside NumPy and Pillow; '' for the export alone
PACKAGES = {'python': 'ai_edge_litert', 'android': 'mediapipe', 'onnx': 'onnxruntime',
            'openvino': 'openvino', 'server': ''}
ALL = 'import json\nprint(json.dumps([classify(path)[0] for path in json.load(open("all.json"))]))'
SECONDS = 900


def blocks(page, language):
    """The code of a language on a page."""
    found = BLOCK.findall((PAGES / f'{page}.md').read_text())
    return '\n'.join(code for kind, code in found if kind == language)


def has(python, package):
    """Whether an interpreter can import a package."""
    return not subprocess.run([python, '-c', f'import {package}'], capture_output=True).returncode


def compare_resizing(export_dir, paths, size, python, add):
    """The Android page on pictures that are resized otherwise before."""
    height, width = size
    ways = {'by halves': lambda image: image.resize((width, height), Image.Resampling.BOX),
            'every second pixel, as MediaPipe itself': lambda image: Image.fromarray(
                np.asarray(image)[::2, ::2])}
    for name, resize in ways.items():
        with tempfile.TemporaryDirectory() as work:
            work = pathlib.Path(work)
            resized = [work / f'{i}.png' for i in range(len(paths))]
            for path, source in zip(resized, paths):
                image = Image.open(source).convert('RGB')
                assert image.size == (2 * width, 2 * height)
                resize(image).save(path)
            prepare(work, export_dir, resized, size)
            add('android', 'model_int8.tflite', answers('android', work, python),
                {'resized': name})


def prepare(work, export_dir, pictures, size):
    """A working folder as the pages have it: runs/mine/export, picture.jpg; all pictures beside.

    size: (height, width) of the model, which the Android page states.
    """
    (work / 'size.json').write_text(json.dumps(size))
    (work / 'runs/mine').mkdir(parents=True)
    (work / 'runs/mine/export').symlink_to(pathlib.Path(export_dir).resolve())
    (work / 'picture.jpg').symlink_to(pathlib.Path(pictures[0]).resolve())
    (work / 'all.json').write_text(json.dumps([str(pathlib.Path(path).resolve())
                                               for path in pictures]))


def run(command, work, **environment):
    """What a command prints; RuntimeError with its errors."""
    done = subprocess.run(command, cwd=work, capture_output=True, text=True, timeout=SECONDS,
                          env={**os.environ, **environment})
    if done.returncode:
        raise RuntimeError(f'{command[0]} ended with {done.returncode}: {done.stderr[-2000:]}')
    return done.stdout


def answers(page, work, python):
    """The labels that the code of a page gives to the pictures of a prepared folder."""
    if page == 'server':
        with serving_server.running((work / 'runs/mine/export/saved_model').resolve(),
                                    'mine') as url:
            paths = json.loads((work / 'all.json').read_text())
            code = blocks(page, 'sh') + '\nfor path in "$@"; do echo; classify "$path"; done'
            lines = run(['bash', '-c', code, 'bash', *paths], work,
                        SERVER=url.split('/')[2]).splitlines()
        found = [json.loads(line)['predictions'][0]['classes'][0] for line in lines if line]
        assert found[0] == found[1]  # of picture.jpg, the first of them
        return found[1:]
    if page == 'onnx':
        path = f'{pathlib.Path(sys.executable).parent}:{os.environ["PATH"]}'
        run(['bash', '-ec', blocks(page, 'sh')], work, PATH=path)
    height, width = json.loads((work / 'size.json').read_text())
    code = blocks(page, 'python').replace('SIZE = 64, 64', f'SIZE = {width}, {height}')
    lines = run([python, '-c', f'{code}\n{ALL}'], work, PYTHONPATH='')
    first, found = lines.splitlines()[-2:]
    found = json.loads(found)
    assert first.startswith(f"('{found[0]}', "), first
    return found


def picture_files(folder, count):
    """Equally spaced files of a folder of class folders."""
    paths = sorted(path for path in folder.glob('*/*') if path.is_file())
    return [paths[i] for i in np.linspace(0, len(paths) - 1, count).astype(int)]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('run_dir', type=pathlib.Path)
    parser.add_argument('pictures', type=pathlib.Path)
    parser.add_argument('--python', default=sys.executable)
    parser.add_argument('--images', type=int, default=200)
    parser.add_argument('--json')
    parser.add_argument('--pages', help='comma-separated; by default all')
    options = parser.parse_args()
    pages = options.pages.split(',') if options.pages else [*PACKAGES]
    export_dir = options.run_dir / 'export'
    labels = (export_dir / 'labels.txt').read_text().splitlines()
    paths = picture_files(options.pictures, options.images)
    model = keras.models.load_model(export_dir / 'pruned.keras')
    pixels = np.array([decode(str(path), *model.input_shape[1:]) for path in paths])
    top = model.predict(pixels.astype(np.float32), verbose=0).argmax(-1)
    versions = {'Python': platform.python_version(), 'tensorflow': run(
        [sys.executable, '-c', 'import tensorflow; print(tensorflow.__version__)'], '.').strip()}
    rows = []

    def add(page, file, found, version):
        same = int(np.sum(np.array(found) == np.array([labels[index] for index in top])))
        row = {'page': page, 'file': file, 'same_top1': same, 'images': len(paths), **version}
        print(json.dumps(row), flush=True)
        rows.append({**row, 'model': model.name, 'size': model.input_shape[1:],
                     'classes': len(labels), 'cpu': processor(), **versions})

    with tempfile.TemporaryDirectory() as work:
        work = pathlib.Path(work)
        prepare(work, export_dir, paths, model.input_shape[1:3])
        for page in pages:
            package = PACKAGES[page]
            version = {} if not package else {'package': package, 'version': run(
                [options.python, '-c', 'import importlib.metadata as m; '
                 f'print(m.version("{package.replace("_", "-")}"))'], '.').strip()}
            file = re.search(r'saved_model|model\w*\.(tflite|onnx)', blocks(
                page, 'python') or 'saved_model')[0]
            add(page, file, answers(page, work, options.python), version)
    if 'android' in pages:
        compare_resizing(export_dir, paths, model.input_shape[1:3], options.python, add)
    if options.pages is None and (export_dir / 'web').is_dir():
        with tempfile.TemporaryDirectory() as work:
            links = [pathlib.Path(work) / f'{i}{path.suffix}' for i, path in enumerate(paths)]
            for link, path in zip(links, paths):
                link.symlink_to(path.resolve())
            found = web_page.drop(litert_js.find_browser(), export_dir / 'web', links, work,
                                  seconds=SECONDS)
        seen = np.array([np.reshape(answer['pixels'], pixels.shape[1:3] + (3,))
                         for answer in found['answers']])
        difference = np.abs(seen - pixels.astype(int))
        for place, row in enumerate(found['models']):
            if row['title'].startswith('dense'):
                continue  # another model
            add('browser', row['title'],
                [labels[answer['classes'][place]] for answer in found['answers']],
                {'package': litert_js.PACKAGE, 'most_difference_of_pixels': int(difference.max()),
                 'ms': row['ms']})
    if options.json:
        with open(options.json, 'w') as file:
            file.writelines(json.dumps(row) + '\n' for row in rows)


if __name__ == '__main__':
    main()
