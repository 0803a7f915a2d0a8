"""The memory that a .tflite file needs in a process of its own. No tfprune.

Run as a script: python memory.py model.tflite threads
"""

import json
import pathlib
import resource
import sys

import numpy as np

STATUS, RESET = pathlib.Path('/proc/self/status'), pathlib.Path('/proc/self/clear_refs')


def main(path: str, threads: int) -> None:
    """Prints as one line of JSON what ten inferences of one image add to the process, in bytes."""
    try:
        from ai_edge_litert.interpreter import Interpreter
        runtime = 'LiteRT'
    except ImportError:
        from tensorflow.lite.python.interpreter import Interpreter
        runtime = 'TensorFlow Lite'
    try:
        RESET.write_text('5')  # the peak that Linux remembers starts anew
        before, peak = resident('VmRSS'), lambda: resident('VmHWM')
    except OSError:
        def peak() -> int:
            most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            return most if sys.platform == 'darwin' else 1024 * most
        before = peak()
    interpreter = Interpreter(model_path=path, num_threads=threads)
    for detail in interpreter.get_input_details():
        interpreter.resize_tensor_input(detail['index'], [1, *detail['shape'][1:]])
    interpreter.allocate_tensors()
    for detail in interpreter.get_input_details():
        interpreter.set_tensor(detail['index'], np.zeros(detail['shape'], detail['dtype']))
    for _ in range(10):
        interpreter.invoke()
    print(json.dumps({'runtime': runtime, 'peak_bytes': max(peak() - before, 0)}))


def resident(name: str) -> int:
    """Bytes of a line of /proc/self/status."""
    for line in STATUS.read_text().splitlines():
        if line.startswith(f'{name}:'):
            return 1024 * int(line.split()[1])
    raise OSError(f'{STATUS}: no {name}')


if __name__ == '__main__':
    main(sys.argv[1], int(sys.argv[2]))
