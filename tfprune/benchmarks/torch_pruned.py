"""Torch-Pruning (Fang et al., arXiv 2301.12900) on a network of torchvision. No tfprune.

Run as a script: python torch_pruned.py network
The first line written is a JSON object: versions, dense multiply-adds, and their shares that are
left if each width is cut to a tenth and to a half. Each line on stdin is answered by the seconds
of the processor for the trace and for the cut of the widths to half.
"""
import copy
import json
import sys
import time

import torch
import torch_pruning
import torchvision


def cut(network: torch.nn.Module, image: torch.Tensor, ratio: float
        ) -> tuple[torch.nn.Module, float, float]:
    """A copy without `ratio` of each width, heads of attention included but not the classes; and
    the seconds of trace and cut."""
    network = copy.deepcopy(network)
    heads = {part: part.num_heads for part in network.modules()
             if isinstance(part, torch.nn.MultiheadAttention)}
    classes = [part for part in network.modules()
               if isinstance(part, torch.nn.Linear) and part.out_features == 1000]
    start = time.process_time()
    pruner = torch_pruning.pruner.MetaPruner(
        network, image, importance=torch_pruning.importance.MagnitudeImportance(p=1),
        pruning_ratio=ratio, ignored_layers=classes, num_heads=heads, prune_num_heads=bool(heads),
        head_pruning_ratio=ratio)
    traced = time.process_time()
    pruner.step()
    return network, traced - start, time.process_time() - traced


def main() -> None:
    """See the module."""
    torch.set_num_threads(1)
    network = getattr(torchvision.models, sys.argv[1])(weights=None).eval()
    image = torch.randn(1, 3, 224, 224)
    dense, _ = torch_pruning.utils.count_ops_and_params(network, image)
    left = []
    for ratio in (0.9, 0.5):
        try:
            pruned, _, _ = cut(network, image, ratio)
            with torch.no_grad():
                pruned(image)
            left.append(torch_pruning.utils.count_ops_and_params(pruned, image)[0] / dense)
        except Exception as error:  # of the library, which the table tells
            left.append(f'{type(error).__name__}: {error}'.splitlines()[0][:80])
    print(json.dumps({'version': f'{torch.__version__}, Torch-Pruning {torch_pruning.__version__}',
                      'dense_macs': dense, 'left_of_tenth': left[0], 'left_of_half': left[1]}),
          flush=True)
    for _ in sys.stdin:
        print(json.dumps(cut(network, image, 0.5)[1:]), flush=True)


if __name__ == '__main__':
    main()
