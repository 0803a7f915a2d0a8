"""Says what of a model can be pruned, before any training.

python scripts/analyze.py --model=resnet20

The same as `tfprune analyze`: tfprune/commands/analyze.py.
"""
from tfprune.commands import run

if __name__ == '__main__':
    run('analyze')
