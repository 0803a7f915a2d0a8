"""Prunes a model file to a budget at once: one pruning rate for all groups, no data, no training.

python scripts/prune.py model.keras --macs=0.5 --out=pruned.keras

The same as `tfprune prune`: tfprune/commands/prune.py.
"""
from tfprune.commands import run

if __name__ == '__main__':
    run('prune')
