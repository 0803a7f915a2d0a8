"""Trains, prunes, fine-tunes and exports a network.

python scripts/train.py --flagfile=flags/quickstart.flags --run_dir=runs/quickstart

The same as `tfprune train`: tfprune/commands/train.py.
"""
from tfprune.commands import run

if __name__ == '__main__':
    run('train')
