"""A page of tfprune.export.web in a headless Chromium that has no network but this machine.

    python tests/web_page.py RUN_DIR/export/web --width=420 --screenshot=page.png PICTURE...

The folder is served as `python -m http.server` serves it.
"""
import argparse
import contextlib
import functools
import http.server
import json
import os
import pathlib
import subprocess
import tempfile
import threading

import litert_js
from tfprune.export.web import litert_js as runtime

DRIVER = pathlib.Path(__file__).parent / 'clients' / 'drop_pictures.html'


def made_up_runtime(folder):
    """Files of the names of LiteRT.js in a folder, which is given back as text."""
    for name in runtime.FILES:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return str(folder)


def drop(browser, page, pictures, work, *, width=1280, seconds=180):
    """What a page shows of picture files that are dropped on it.

    page: its folder.   pictures: paths, of different names.   work: a folder for the browser.
    Returns {answers: one a picture, {size: [H, W], pixels: RGB that the model sees, classes: of
    each model the likeliest, probabilities: [[label, percent of each model]]}, models: [{title, kB,
    ms, answer}], requests: URLs, overflow: pixels}, or {error: what it says}.
    """
    with serving(page, pictures) as (url, found):
        litert_js.visit(browser, f'{url}/driver.html', work, found.event, seconds,
                        f'--window-size={width},900')
    return json.loads(found.content)


def screenshot(browser, page, pictures, path, width, height=900):
    """Writes a PNG of the page once pictures were dropped on it, as an iframe of that width."""
    with tempfile.TemporaryDirectory() as work, serving(page, pictures) as (url, _):
        subprocess.run(
            [browser, *litert_js.FLAGS, f'--user-data-dir={work}/profile', '--hide-scrollbars',
             f'--window-size={max(width, 500)},{height}', f'--screenshot={path}',
             f'{url}/driver.html?width={width}'], check=True,
            timeout=120, env={**os.environ, 'HOME': work}, stderr=subprocess.DEVNULL)


class _Answer:
    """What the browser posted, once the event is set."""

    def __init__(self):
        self.event, self.content = threading.Event(), b''


@contextlib.contextmanager
def serving(page, pictures):
    """Serves a page, the pictures and what drops them on it: (the URL, the answer to be)."""
    found = _Answer()
    pictures = {pathlib.Path(picture).name: pathlib.Path(picture) for picture in pictures}
    task = json.dumps({'page': '/index.html', 'pictures': list(pictures)}).encode()
    handler = functools.partial(_Handler, pictures, task, found, directory=str(page))
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f'http://127.0.0.1:{server.server_port}', found
        finally:
            found.event.set()
            server.shutdown()


class _Handler(http.server.SimpleHTTPRequestHandler):
    """That of `python -m http.server`, with what drives the page beside it."""

    def __init__(self, pictures, task, found, *args, **options):
        self.pictures, self.task, self.found = pictures, task, found
        super().__init__(*args, **options)

    def do_GET(self):
        path = self.path.partition('?')[0]
        if path == '/driver.html':
            self.answer(DRIVER.read_bytes(), 'text/html')
        elif path == '/task.json':
            self.answer(self.task, 'application/json')
        elif path == '/hold':
            self.found.event.wait()
            self.answer(b'', 'image/png')
        elif path.startswith('/pictures/'):
            picture = self.pictures[path.removeprefix('/pictures/')]
            self.answer(picture.read_bytes(), self.guess_type(picture.name))
        else:
            super().do_GET()

    def answer(self, content, kind):
        self.send_response(200)
        self.send_header('Content-Type', kind)
        self.send_header('Content-Length', str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_POST(self):
        self.found.content = self.rfile.read(int(self.headers['Content-Length']))
        self.found.event.set()
        self.send_response(204)
        self.end_headers()

    def log_message(self, *args):
        pass


def main():
    """Prints what the page shows, and writes a screenshot if asked to."""
    parser = argparse.ArgumentParser()
    parser.add_argument('page', type=pathlib.Path)
    parser.add_argument('pictures', nargs='+')
    parser.add_argument('--width', type=int, default=1280)
    parser.add_argument('--height', type=int, default=900)
    parser.add_argument('--screenshot')
    options = parser.parse_args()
    browser = litert_js.find_browser()
    with tempfile.TemporaryDirectory() as work:
        found = drop(browser, options.page, options.pictures, work, width=options.width)
    for answer in found.get('answers', ()):
        answer.pop('pixels')
    print(json.dumps(found, indent=1, ensure_ascii=False))
    if options.screenshot:
        screenshot(browser, options.page, options.pictures, options.screenshot, options.width,
                   options.height)


if __name__ == '__main__':
    main()
