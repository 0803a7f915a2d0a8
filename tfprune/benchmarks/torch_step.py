"""Training steps of the CIFAR ResNet in PyTorch on the CPU, channels last. No tfprune.

Run as a script: python torch_step.py depth dtype batch_size threads
Each line on stdin is a number of steps; it is answered by the seconds that they took. The first
line written is the version of PyTorch.
"""
import sys
import time

import torch
from torch import nn
from torch.nn import functional

STAGE_WIDTHS = (16, 32, 64)


class Block(nn.Module):
    """Two convolutions and a shortcut that takes every second pixel and pads channels."""

    def __init__(self, channels: int, width: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.stride, self.extra = stride, width - channels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = functional.relu(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        if self.stride > 1:
            half = self.extra // 2
            x = functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, half, self.extra - half))
        return functional.relu(x + y)


class ResNet(nn.Module):
    """Normalized images [B, 3, 32, 32] -> logits [B, 10]; depth = 6n + 2."""

    def __init__(self, depth: int):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        blocks, channels = [], STAGE_WIDTHS[0]
        for stage, width in enumerate(STAGE_WIDTHS):
            for block in range((depth - 2) // 6):
                blocks.append(Block(channels, width, 2 if stage and not block else 1))
                channels = width
        self.blocks, self.logits = nn.Sequential(*blocks), nn.Linear(channels, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.blocks(functional.relu(self.norm(self.stem(x))))
        return self.logits(x.mean((2, 3)))


def main(depth: int, dtype: str, batch_size: int, threads: int) -> None:
    """Answers numbers of steps with seconds until stdin ends."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = ResNet(depth).to(memory_format=torch.channels_last)
    images = torch.randint(0, 256, (batch_size, 3, 32, 32), dtype=torch.uint8)
    images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, 10, (batch_size,))
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=1e-4)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast('cpu', dtype=torch.bfloat16, enabled=dtype == 'bfloat16'):
            x = (images.float() / 255 - 0.5) / 0.25
            loss = functional.cross_entropy(model(x), labels)
        loss.backward()
        optimizer.step()

    print(torch.__version__, flush=True)
    for line in sys.stdin:
        start = time.perf_counter()
        for _ in range(int(line)):
            step()
        print(time.perf_counter() - start, flush=True)


if __name__ == '__main__':
    main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
