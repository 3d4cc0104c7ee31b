"""Turn a training checkpoint into an ONNX model, and prove that both give the same labels."""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lwseg_ros.errors import ModelError
from lwseg_ros.files import sha256
from lwseg_ros.inference.backends import open_backend
from lwseg_ros.inference.backends.base import BackendOptions
from lwseg_ros.inference.check_images import check_images
from lwseg_ros.inference.graph import (
    ImageToLabels,
    export_onnx,
    load_network,
    round_weights,
    save_safetensors,
)
from lwseg_ros.inference.half_precision import LARGEST_HALF
from lwseg_ros.inference.model_file import model_kind, read_model_info
from lwseg_ros.inference.model_info import ModelInfo
from lwseg_ros.inference.model_source import ModelSource
from lwseg_ros.inference.self_check import label_agreement

LEAST_AGREEMENT = 0.995
"""The share of pixels on which the exported model must name the class that PyTorch names."""

_logger = logging.getLogger(__name__)


def export_checkpoint(
    checkpoint: str | os.PathLike[str],
    out: str | os.PathLike[str],
    name: str | None = None,
    round_to_bf16: bool = False,
) -> dict[str, Any]:
    """Export a safetensors checkpoint of `lwseg train` as ONNX and return a report.

    The new file is run in fp32 against PyTorch on seeded images; only if the labels agree on at
    least 99.5 % of the pixels does it appear under the name `out`. `name` replaces the model's.

    `round_to_bf16` rounds the weights first (see `graph.round_weights`), so that bf16 backends
    answer as fp32 ones do, and writes them beside `out` as .safetensors, for the torch backend.

    `largest_activation` of the report tells how near the network comes to the end of half
    precision on those images; beyond it, a warning is logged.

    ModelError if the checkpoint cannot be used or the check fails.
    """
    checkpoint, out = Path(checkpoint), Path(out)
    if out.suffix != '.onnx':
        raise ModelError(f'{out} must end in .onnx: that is what is exported')
    if model_kind(checkpoint) != 'safetensors':
        raise ModelError(f'{checkpoint} is not a safetensors checkpoint of `lwseg train`')
    info = read_model_info(checkpoint)
    if name is not None:
        info = replace(info, name=name)
    network = load_network(checkpoint, info)
    if round_to_bf16:
        if out.with_suffix('.safetensors').resolve() == checkpoint.resolve():
            raise ModelError(f'{checkpoint} would be overwritten by rounded weights')
        round_weights(network)
        checkpoint = out.with_suffix('.safetensors')
        save_safetensors(network, info, checkpoint)
    partial = out.with_name(f'.{out.stem}.part.onnx')
    try:
        export_onnx(network, info, partial)
        options = BackendOptions(info.input_size, device='cpu', precision='fp32')
        exported = open_backend('auto', ModelSource(partial, info, onnx=partial), options)
        weights = ModelSource(checkpoint, info, safetensors=checkpoint)
        agreement = label_agreement(
            exported, open_backend('torch', weights, options), info, info.input_size
        )
        if not agreement >= LEAST_AGREEMENT:
            raise ModelError(
                f'the export of {checkpoint} agrees with PyTorch on {100 * agreement:.2f} % of '
                f'the pixels only, {100 * LEAST_AGREEMENT} % are wanted: nothing was written'
            )
        partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)
    activation = largest_activation(network, info)
    if not activation < LARGEST_HALF:
        _logger.warning(
            'activations of %s reach %.3g, half precision ends at %g: GPUs will run it in fp32',
            info.name, activation, LARGEST_HALF,
        )  # fmt: skip
    return {
        'model': str(out),
        'sha256': sha256(out),
        'bytes': out.stat().st_size,
        'checked_with': exported.description,
        'label_agreement': agreement,
        'largest_activation': activation,
    }


def largest_activation(network: nn.Module, info: ModelInfo) -> float:
    """Return the largest absolute output of any layer on the images of the self-check."""
    largest = torch.zeros(())

    def watch(module: nn.Module, inputs: object, output: object) -> None:
        if isinstance(output, torch.Tensor) and output.is_floating_point():
            torch.maximum(largest, output.abs().amax(), out=largest)

    layers = [module for module in network.modules() if not any(module.children())]
    hooks = [layer.register_forward_hook(watch) for layer in layers]
    graph = ImageToLabels(network, info.mean, info.std).eval()
    classes = torch.from_numpy(info.label_space.drivable_vector())
    try:
        with torch.inference_mode():
            for image in check_images(info.input_size):
                graph(torch.from_numpy(image), classes)
    finally:
        for hook in hooks:
            hook.remove()
    return float(largest)
