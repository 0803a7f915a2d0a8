r"""Exports a Keras model as it is: every file measured on the test images, its latency by threads.

python scripts/export.py --model=runs/x/dense.keras --dataset=cifar10 --data_dir=… \
  --quantize=float16,dynamic,int8,int8_qat --out=exported

The same as `tfprune export`: tfprune/commands/export.py.
"""
from tfprune.commands import run

if __name__ == '__main__':
    run('export')
