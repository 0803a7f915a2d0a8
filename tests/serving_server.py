"""A model server with the REST interface of TensorFlow Serving, on TensorFlow alone, for tests.

    python serving_server.py --model_name=m --model_base_path=export/saved_model [--rest_api_port=0]

As TensorFlow Serving it loads the highest version by a session, runs its warm-up requests and then
answers status, metadata and predict
(https://github.com/tensorflow/serving/blob/master/tensorflow_serving/g3doc/api_rest.md).
"""
import argparse
import base64
import binascii
import contextlib
import http.server
import json
import os
import pathlib
import re
import subprocess
import sys
import threading
import urllib.error
import urllib.request

if __name__ == '__main__':  # what a server has not got; importing it fails
    os.environ['TF_CPP_MIN_LOG_LEVEL'] = '3'
    sys.modules.update(tfprune=None, keras=None, tf_keras=None, PIL=None)

import numpy as np
import tensorflow as tf
from google.protobuf import json_format

import prediction_logs

PATH = re.compile(r'/v1/models/([^/:]+)(?:/versions/(\d+))?(?:(/metadata)|(:predict))?$')
HTTP_STATUS = {tf.errors.INVALID_ARGUMENT: 400, tf.errors.NOT_FOUND: 404,
               tf.errors.FAILED_PRECONDITION: 412}


class RequestError(Exception):
    """A refusal, with the HTTP status that it has."""

    def __init__(self, message, status=400):
        super().__init__(message)
        self.status = status


class Servable:
    """The highest version below a directory, in a session."""

    def __init__(self, base_path):
        versions = [int(child.name) for child in base_path.iterdir() if child.name.isdecimal()]
        self.version = max(versions)
        directory = base_path / str(self.version)
        self.session = tf.compat.v1.Session(graph=tf.Graph())
        meta_graph = tf.compat.v1.saved_model.load(self.session, ['serve'], str(directory))
        self.signatures = {name: signature for name, signature in meta_graph.signature_def.items()
                           if not name.startswith('__')}
        warmup = directory / 'assets.extra/tf_serving_warmup_requests'
        self.warmed_up = prediction_logs.read_requests(warmup) if warmup.exists() else []
        for _, signature, inputs in self.warmed_up:
            self.run(self.signatures[signature], inputs)

    def run(self, signature, inputs):
        """{output: array} of {input: array}."""
        outputs = {name: info.name for name, info in signature.outputs.items()}
        return self.session.run(outputs, {signature.inputs[name].name: value
                                          for name, value in inputs.items()})

    def predict(self, request):
        """The response to a request, both of JSON."""
        name = request.get('signature_name') or 'serving_default'
        if name not in self.signatures:
            raise RequestError(f'Serving signature name: "{name}" not found in signature def')
        signature = self.signatures[name]
        if ('instances' in request) == ('inputs' in request):
            raise RequestError("Missing 'inputs' or 'instances' key, or both are there")
        rows = 'instances' in request
        columns = (columns_of(request['instances']) if rows else request['inputs'])
        if not isinstance(columns, dict) or is_base64(columns):
            columns = {next(iter(signature.inputs)): columns}
        if set(columns) != set(signature.inputs):
            raise RequestError(f'expected inputs {", ".join(signature.inputs)}, received '
                               f'{", ".join(columns)}')
        answer = self.run(signature, {name: to_array(value, signature.inputs[name].dtype)
                                      for name, value in columns.items()})
        answer = {name: to_json(value.tolist(), name) for name, value in answer.items()}
        if len(answer) == 1:
            answer, = answer.values()
        elif rows:
            answer = [dict(zip(answer, row)) for row in zip(*answer.values(), strict=True)]
        return {'predictions' if rows else 'outputs': answer}


def columns_of(instances):
    """{input: rows}, or rows where there is one input that is not named."""
    if not isinstance(instances, list) or not instances:
        raise RequestError("No values in 'instances' array")
    named = [isinstance(row, dict) and not is_base64(row) for row in instances]
    if not any(named):
        return instances
    if not all(named) or any(set(row) != set(instances[0]) for row in instances):
        raise RequestError("'instances' are not all objects of the same names")
    return {name: [row[name] for row in instances] for name in instances[0]}


def is_base64(value):
    """Whether a value of JSON is the base64 form of bytes."""
    return isinstance(value, dict) and list(value) == ['b64'] and isinstance(value['b64'], str)


def to_array(value, dtype):
    """The array of an input; RequestError unless it is of the signature's type and not ragged."""
    def leaf(value):
        if isinstance(value, list):
            return [leaf(item) for item in value]
        if is_base64(value):
            return base64.b64decode(value['b64'], validate=True)
        if isinstance(value, str) != (dtype == tf.string.as_datatype_enum):
            raise RequestError(f'JSON Value: {value!r} is not of expected type: '
                               f'{tf.as_dtype(dtype).name}')
        return value.encode() if isinstance(value, str) else value

    try:
        return np.array(leaf(value), tf.as_dtype(dtype).as_numpy_dtype)
    except (binascii.Error, OverflowError, TypeError, ValueError) as error:
        raise RequestError(f'JSON Value cannot be made a tensor: {error}') from error


def to_json(value, name):
    """A value of an output with bytes as strings, or as base64 where the name asks for it."""
    if isinstance(value, list):
        return [to_json(item, name) for item in value]
    if isinstance(value, bytes):
        return ({'b64': base64.b64encode(value).decode()} if name.endswith('_bytes')
                else value.decode())
    return value


def make_handler(model_name, servable):
    """The handler of requests to one model."""
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = 'HTTP/1.1'

        def do_GET(self):
            self.answer(self.get)

        def do_POST(self):
            self.answer(self.post)

        def answer(self, method):
            body = self.rfile.read(int(self.headers.get('Content-Length', 0)))
            try:
                status, answer = 200, method(body)
            except RequestError as error:
                status, answer = error.status, {'error': str(error)}
            except tf.errors.OpError as error:
                status, answer = HTTP_STATUS.get(error.error_code, 500), {'error': error.message}
            except ValueError as error:  # how a session refuses another shape
                status, answer = 400, {'error': str(error)}
            content = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header('Content-Type', 'application/json')
            self.send_header('Content-Length', str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def find(self):
            """'/metadata', ':predict' or '' of the path, which is that of the model."""
            match = PATH.match(self.path)
            if not match:
                raise RequestError(f'Malformed request: {self.command} {self.path}')
            name, version, metadata, predict = match.groups()
            if name != model_name or version not in (None, str(servable.version)):
                wanted = f'Specific({name}, {version})' if version else f'Latest({name})'
                raise RequestError(f'Servable not found for request: {wanted}', 404)
            return metadata or predict or ''

        def get(self, body):
            if self.find() == '/metadata':
                signatures = {name: json_format.MessageToDict(signature)
                              for name, signature in servable.signatures.items()}
                return {'model_spec': {'name': model_name, 'signature_name': '',
                                       'version': str(servable.version)},
                        'metadata': {'signature_def': {'signature_def': signatures}}}
            return {'model_version_status': [
                {'version': str(servable.version), 'state': 'AVAILABLE',
                 'status': {'error_code': 'OK', 'error_message': ''}}]}

        def post(self, body):
            if self.find() != ':predict':
                raise RequestError(f'Malformed request: {self.command} {self.path}')
            try:
                request = json.loads(body)
            except ValueError as error:
                raise RequestError(f'JSON Parse error: {error}') from error
            if not isinstance(request, dict):
                raise RequestError('JSON Value: is not object')
            return servable.predict(request)

        def log_message(self, *args):
            pass

    return Handler


@contextlib.contextmanager
def running(base_path, model_name='m'):
    """A server in a process of its own, for the time of the block: the URL of its model."""
    process = subprocess.Popen(
        [sys.executable, __file__, f'--model_name={model_name}', f'--model_base_path={base_path}'],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=base_path)
    watch = threading.Timer(200, process.kill)
    watch.start()
    try:
        line = process.stdout.readline()
        if not line.startswith('http://'):
            raise RuntimeError(f'no server: {process.communicate()[1][-2000:]}')
        watch.cancel()
        yield line.strip()
    finally:
        watch.cancel()
        process.kill()
        process.communicate()


def ask(url, request=None):
    """(HTTP status, answer of JSON): a GET, or a POST of a request of JSON or of bytes."""
    data = request if isinstance(request, bytes | None) else json.dumps(request).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data), timeout=120) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def main():
    """Serves until it is killed; prints the model's URL once it can answer."""
    parser = argparse.ArgumentParser()
    parser.add_argument('--model_name', required=True)
    parser.add_argument('--model_base_path', required=True, type=pathlib.Path)
    parser.add_argument('--rest_api_port', type=int, default=0)
    options = parser.parse_args()
    handler = make_handler(options.model_name, Servable(options.model_base_path))
    server = http.server.ThreadingHTTPServer(('127.0.0.1', options.rest_api_port), handler)
    print(f'http://127.0.0.1:{server.server_port}/v1/models/{options.model_name}', flush=True)
    server.serve_forever()


if __name__ == '__main__':
    main()
