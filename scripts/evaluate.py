"""Re-measures test accuracy and cost of an exported model, from its files alone.

python scripts/evaluate.py --path=runs/x

The same as `tfprune evaluate`: tfprune/commands/evaluate.py.
"""
from tfprune.commands import run

if __name__ == '__main__':
    run('evaluate')
