"""What requests to serve_bytes take, measured in a process of its own.

    python serving_memory.py SAVED_MODEL --requests=4 PICTURE [PICTURE ...]

Sends `requests` requests of all pictures at once, and prints one line of JSON: the resident set at
rest and at its peak, in MiB, and the first error.
"""
import argparse
import json
import os
import pathlib
import sys
import threading
import zlib

if __name__ == '__main__':
    os.environ['TF_CPP_MIN_LOG_LEVEL'] = '3'
    os.environ['TF_NUM_INTEROP_THREADS'] = '8'  # as on a server of many cores
    sys.modules.update(tfprune=None, keras=None, tf_keras=None)


def png(width, height, *, color=0, depth=8):
    """A black PNG; color: 0 gray, 2 RGB, 3 palette, 4 gray with alpha, 6 RGBA."""
    def chunk(name, data):
        return (len(data).to_bytes(4, 'big') + name + data
                + zlib.crc32(name + data).to_bytes(4, 'big'))

    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[color]
    packer = zlib.compressobj(1)
    row = bytes(1 + width * channels * depth // 8)
    data = b''.join(packer.compress(row) for _ in range(height)) + packer.flush()
    header = width.to_bytes(4, 'big') + height.to_bytes(4, 'big') + bytes([depth, color, 0, 0, 0])
    palette = chunk(b'PLTE', bytes(3)) if color == 3 else b''
    return (b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', header) + palette + chunk(b'IDAT', data)
            + chunk(b'IEND', b''))


def resident(name):
    """MiB of /proc/self/status: VmRSS now, VmHWM at most. (getrusage counts the parent, too.)"""
    lines = pathlib.Path('/proc/self/status').read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1]) / 1024


def main():
    import tensorflow as tf

    parser = argparse.ArgumentParser()
    parser.add_argument('saved_model')
    parser.add_argument('pictures', nargs='+', type=pathlib.Path)
    parser.add_argument('--requests', type=int, default=1)
    options = parser.parse_args()
    loaded = tf.saved_model.load(options.saved_model)
    serve = loaded.signatures['serve_bytes']
    serve(image_bytes=tf.constant([png(8, 8)]))
    images = tf.constant([path.read_bytes() for path in options.pictures])
    pathlib.Path('/proc/self/clear_refs').write_text('5')  # VmHWM begins anew
    at_rest, errors = resident('VmRSS'), []

    def send():
        try:
            serve(image_bytes=images)
        except tf.errors.OpError as error:
            errors.append(error.message)

    threads = [threading.Thread(target=send) for _ in range(options.requests)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(json.dumps({'at_rest': at_rest, 'peak': resident('VmHWM'), 'error': (errors or [''])[0]}))


if __name__ == '__main__':
    main()
