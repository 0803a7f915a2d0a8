"""LiteRT.js in a headless Chromium that has no network but this machine.

`find` says where the browser and the npm packages are, or why they are not to be had.
"""
import functools
import http.server
import json
import os
import pathlib
import shutil
import subprocess
import threading

import numpy as np

from tfprune.export.web.litert_js import fetch

PAGE = pathlib.Path(__file__).parent / 'clients' / 'classify.html'
TYPES = {'.js': 'text/javascript', '.wasm': 'application/wasm', '.html': 'text/html'}
FLAGS = ('--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
         '--disable-dev-shm-usage', '--disable-background-networking',
         '--disable-component-update', '--disable-sync', '--disable-extensions',
         '--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1')


class Missing(Exception):
    """What is not there and cannot be had."""


def find_browser():
    """The path of a Chromium; Missing says that there is none."""
    browser = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser',
                                                   'google-chrome'))), None)
    if browser is None:
        raise Missing('no Chromium: apt-get install chromium')
    return browser


def find(folder):
    """(browser, node_modules); installs the packages into `folder`. Missing says what lacks."""
    browser = find_browser()
    modules = pathlib.Path(folder) / 'node_modules'
    if not (modules / '@litertjs/core').is_dir():
        missing = fetch(folder)
        if missing:
            raise Missing(missing)
    return browser, modules


def visit(browser, url, folder, answered, seconds, *flags):
    """Opens a page until it has `answered`, an event; `folder` is the browser's own. RuntimeError
    with what the browser says where it does not in so many seconds."""
    process = subprocess.Popen(
        [browser, *FLAGS, f'--user-data-dir={folder}/profile', *flags, url],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        env={**os.environ, 'HOME': str(folder)}, start_new_session=True)
    try:
        if not answered.wait(seconds):
            process.kill()
            raise RuntimeError(f'no answer: {process.communicate()[1][-2000:]}')
    finally:
        process.terminate()
        process.communicate()


def classify(browser, modules, files, folder, seconds=120):
    """What the page makes of files, [(path of a .tflite, images [N, H, W, C])]: for each
    {shape, outputs: [N, K]} or {error}."""
    served = {'/': PAGE}
    tasks = []
    for number, (path, images) in enumerate(files):
        pixels = folder / f'images{number}.bin'
        pixels.write_bytes(np.ascontiguousarray(images).tobytes())
        served |= {f'/model{number}.tflite': pathlib.Path(path), f'/images{number}.bin': pixels}
        tasks.append({'model': f'/model{number}.tflite', 'images': f'/images{number}.bin',
                      'dtype': images.dtype.name, 'shape': list(images.shape[1:]),
                      'count': len(images)})
    task = folder / 'task.json'
    task.write_text(json.dumps(tasks))
    answered, answers = threading.Event(), []

    def on_answer(content):
        answers.append(json.loads(content))
        answered.set()

    handler = functools.partial(_Handler, {**served, '/task.json': task}, modules, on_answer)
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            visit(browser, f'http://127.0.0.1:{server.server_port}/', folder, answered, seconds)
        finally:
            server.shutdown()
    return answers[0]


class _Handler(http.server.BaseHTTPRequestHandler):
    """Serves the page's files, the npm packages, and takes the answer."""

    def __init__(self, served, modules, on_answer, *args):
        self.served, self.modules, self.on_answer = served, modules, on_answer
        super().__init__(*args)

    def do_GET(self):
        path = self.served.get(self.path)
        if path is None and self.path.startswith('/npm/') and '..' not in self.path:
            path = self.modules / self.path.removeprefix('/npm/')
        if path is None or not path.is_file():
            self.send_error(404)
            return
        content = path.read_bytes()
        self.send_response(200)
        self.send_header('Content-Type', TYPES.get(path.suffix, 'application/octet-stream'))
        self.send_header('Content-Length', str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_POST(self):
        self.on_answer(self.rfile.read(int(self.headers['Content-Length'])))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *args):
        pass
