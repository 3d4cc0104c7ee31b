"""The device, the precision and the processes of a run, by Lightning Fabric.

One process trains on one device. PyTorch's `torchrun` starts several, each with its device.
"""

from __future__ import annotations

import os
from datetime import timedelta

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies.ddp import DDPStrategy
from torch import Tensor

from lwseg_ros.errors import DataError
from lwseg_ros.training.recipe import Recipe

DEVICES = ('auto', 'cpu', 'cuda')
VALIDATION_AT_MOST = timedelta(hours=6)
"""How long the others wait for the process that validates."""

_PRECISIONS = {'bf16-mixed': 'bf16-mixed', 'fp32': '32-true', 'fp16-mixed': '16-mixed'}


def start_processes(recipe: Recipe, device: str = 'auto') -> Fabric:
    """Return this process's device, precision and place among the processes, ready to use.

    DataError if the recipe cannot be trained on that device or by so many processes.
    """
    if device not in DEVICES:
        raise DataError(f'device is {device!r}, wanted one of {", ".join(DEVICES)}')
    has_gpu = torch.cuda.is_available()
    if device == 'cuda' and not has_gpu:
        raise DataError('device cuda is wanted and PyTorch finds no GPU: give --device cpu')
    device = 'cuda' if has_gpu and device != 'cpu' else 'cpu'
    if device == 'cpu' and recipe.precision == 'fp16-mixed':
        raise DataError('precision fp16-mixed needs a GPU: give bf16-mixed or fp32 on a CPU')
    processes = int(os.environ.get('WORLD_SIZE', '1'))
    here = int(os.environ.get('LOCAL_WORLD_SIZE', '1'))
    if recipe.batch_size % processes:
        raise DataError(
            f'a batch of {recipe.batch_size} samples cannot be split among {processes} '
            f'processes: give a batch_size that is a multiple of {processes}'
        )
    # Networks may hold heads that a run leaves out, so not every weight gets a gradient.
    shared = DDPStrategy(find_unused_parameters=True, timeout=VALIDATION_AT_MOST)
    precision = recipe.precision
    if precision == 'auto':
        precision = 'bf16-mixed' if _computes_bf16(device) else 'fp32'
    fabric = Fabric(
        accelerator=device,
        devices=here,
        num_nodes=processes // here,
        strategy=shared if processes > 1 else 'auto',
        precision=_PRECISIONS[precision],  # type: ignore[arg-type]
    )
    fabric.launch()
    return fabric


def _computes_bf16(device: str) -> bool:
    """Tell whether the device multiplies in bfloat16 itself.

    Others convert back and forth: an AVX2 processor then took 14 times as long for a step.
    """
    if device == 'cuda':
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name) for name in ('avx512_bf16', 'amx_bf16', 'arm_bf16'))


def total(fabric: Fabric, value: Tensor) -> Tensor:
    """Return the sum of `value` over the processes; its gradient is that of the part from here."""
    if fabric.world_size == 1:
        return value
    everywhere = fabric.all_reduce(value.detach().clone(), reduce_op='sum')
    assert isinstance(everywhere, Tensor)
    return value + (everywhere - value).detach()
