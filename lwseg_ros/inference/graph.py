"""The graph of every model: uint8 pixels in, uint8 labels, confidence and drivable score out.

Networks of the catalog give an embedding of the image besides, and joint ones what they measure.
"""

from __future__ import annotations

import copy
import logging
import os
import warnings
from ast import literal_eval
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.fx
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from lwseg_ros.errors import ModelError
from lwseg_ros.inference.model_file import (
    EMBEDDING,
    IN_FLOAT32,
    model_metadata,
    write_model,
)
from lwseg_ros.inference.model_info import ModelInfo
from lwseg_ros.networks.layers import InFloat32, MeanOverPositions, SegmentationNetwork

if TYPE_CHECKING:
    import onnx

OPSET = 18
IR_VERSION = 8
INPUT_NAMES = ('image', 'drivable_classes')
OUTPUT_NAMES = ('labels', 'confidence', 'drivable')

NETWORK_STRIDE = 4
MANY_CLASSES = 32
"""With more classes, labels come at half the size: up-sampling a plane of logits for each class
would cost nearly as much as the network (our choice). Half the size took 0.4 points of mIoU and
0.1 of road IoU from `road` on CamVid val."""

_EMBEDDING = 'mean_of_last_map'  # the name of that output while the exporter works
_EXCLUDED = -1e4  # the logit of a class that takes no part; within half precision
_BROKEN = -1e4  # a probability so low that no interpolation with its neighbours is positive
_LARGEST_LOGIT_SUM = 1e30  # above any real sum, below infinity


class ImageToLabels(nn.Module):
    """A network with everything before and after it that works on pixels.

    `network` turns float `[N, 3, H, W]` into logits `[N, C, ceil(H/4), ceil(W/4)]`; `mean` and
    `std` are of RGB scaled to 0..1. Labels come at `ceil(size / label_stride)`: 1 up-samples the
    logits to the input's size first, 4 takes them at the network's own stride; None is 1, or 2
    with many classes. `further` names more outputs of a `SegmentationNetwork`, of `given_outputs`.
    """

    def __init__(
        self,
        network: nn.Module,
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
        label_stride: int | None = None,
        further: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.network: Any = network
        self.further = tuple(further)
        self.embedding = MeanOverPositions() if EMBEDDING in further else None
        self.centred: bool = getattr(network, 'centred', False)
        self.label_stride = label_stride
        self.mean: Tensor
        self.scale: Tensor
        self.register_buffer('mean', 255 * torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer('scale', 1 / (255 * torch.tensor(std).view(1, 3, 1, 1)))

    def forward(self, image: Tensor, drivable_classes: Tensor) -> tuple[Tensor, ...]:
        """Segment images uint8 `[N, H, W, 3]` RGB.

        `drivable_classes` is float `[C]`, 1 for each class that counts as drivable, else 0.

        Returns three uint8 `[N, h, w]`: labels (on a tie the lowest id); confidence, 255 times
        the top probability; drivable, 255 times the logistic function of the margin between the
        best drivable and the best other logit, >= 128 exactly where the label is drivable.
        Where a logit is not finite, confidence and drivable are 0; elsewhere confidence is not.
        The embedding, float32 `[N, C]`, is the mean over all positions of the encoder's last map:
        what the image as a whole is like, to compare images by. Depth is float32 `[N, H, W]` in
        metres, normals are float32 `[N, H, W, 3]` of length 1, both enlarged bilinearly.

        Probability and margin are taken at the network's stride and up-sampled as one plane each
        instead of C (our choice: the same edges at a fraction of the cost).
        """
        pixels = image.to(torch.float32).permute(0, 3, 1, 2)
        pixels = (pixels - self.mean) * self.scale
        further: list[Tensor] = []
        if self.further:
            logits, further = self._predict_all(pixels)
        else:
            logits = self.network(pixels)
        logits = logits.to(torch.float32)
        finite = logits.sum(1, keepdim=True).abs() < _LARGEST_LOGIT_SUM
        logits = torch.where(finite, logits, 0.0)

        top = logits.amax(1, keepdim=True)
        probability = torch.where(finite, 1 / (logits - top).exp().sum(1, keepdim=True), _BROKEN)
        counts = drivable_classes.view(1, -1, 1, 1) > 0.5
        best_drivable = torch.where(counts, logits, _EXCLUDED).amax(1, keepdim=True)
        best_other = torch.where(counts, _EXCLUDED, logits).amax(1, keepdim=True)
        planes = torch.cat((logits, probability, best_drivable - best_other), 1)

        classes = len(drivable_classes)
        stride = self.label_stride or (1 if classes <= MANY_CLASSES else 2)
        if stride != NETWORK_STRIDE:
            size = [-(-extent // stride) for extent in image.shape[1:3]]
            planes = _upsample(planes, size, self.centred)
        number, _, height, width = planes.shape
        # Planes as rows: OpenVINO would else look for the top class pixel by pixel, slowly.
        logits, probability, margin = planes.flatten(2).split_with_sizes((classes, 1, 1), 1)
        labels = logits.argmax(1, keepdim=True)

        valid = probability > 0
        confidence = torch.where(valid, (255 * probability).round().clamp(1, 255), 0.0)
        is_drivable = functional.embedding(labels, drivable_classes[:, None]).squeeze(-1) > 0.5
        lead = torch.where(is_drivable, margin, -margin).clamp(min=0)
        strength = (255 * lead.sigmoid()).round().clamp(128, 255)
        score = torch.where(is_drivable, strength, 255 - strength)
        drivable = torch.where(valid, score, 0.0)
        answers = (labels, confidence, drivable)
        labels, confidence, drivable = (x.view(number, height, width) for x in answers)
        return (*(x.to(torch.uint8) for x in (labels, confidence, drivable)), *further)

    def _predict_all(self, pixels: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the logits and the further outputs, in the order of their names."""
        maps = self.network.encode(pixels)
        size = list(pixels.shape[2:])
        if self.further == (EMBEDDING,):
            logits, measured = self.network.logits(maps), {}
        else:
            logits, measured = self.network.predict_all(maps)
        found = []
        for name in self.further:
            if name == EMBEDDING:
                assert self.embedding is not None
                found.append(self.embedding(maps[-1]))
                continue
            whole = _upsample(measured[name].to(torch.float32), size, self.centred)
            if name == 'normals':
                whole = functional.normalize(whole, dim=1).permute(0, 2, 3, 1)
            found.append(whole if name == 'normals' else whole[:, 0])
        return logits, found


def _upsample(planes: Tensor, size: list[int], centred: bool) -> Tensor:
    # Unless centred, the first logit is the first pixel's, and so on in steps of the stride:
    # corners stay corners.
    return functional.interpolate(planes, size=size, mode='bilinear', align_corners=not centred)


def given_outputs(network: nn.Module) -> tuple[str, ...]:
    """Return the names of the outputs that a network has beside `OUTPUT_NAMES`."""
    if not isinstance(network, SegmentationNetwork):
        return ()
    return (EMBEDDING, *network.measures)


def load_network(path: Path, info: ModelInfo) -> nn.Module:
    """Build the network that `info` names and load its weights from a safetensors file.

    ModelError if they do not fit each other, key by key and shape by shape.
    """
    from safetensors.torch import load_file

    from lwseg_ros.networks import create_network

    network = create_network(info.network, num_classes=info.label_space.num_classes)
    try:
        network.load_state_dict(load_file(path))
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise ModelError(
            f'the weights of {path} are not those of {info.network} with '
            f'{info.label_space.num_classes} classes: {" ".join(lines[1:])[:300]}'
        ) from None
    return network.eval()


def round_weights(network: nn.Module) -> None:
    """Round, in place, the weights of all convolutions to what bfloat16 and float16 both hold.

    Backends multiply a batch norm into the convolution before it, so that is done here too: the
    norm is left with a factor of 1, and the product is rounded. Then fp32 and bf16 backends
    compute with the same weights, and only activations differ (our choice: of the pixels that
    bf16 labels otherwise than fp32, it removes more than half).
    """
    with torch.no_grad():
        for convolution, norm in _convolutions(network).values():
            if norm is not None:
                _fold(norm[1], convolution)
            rounded = convolution.weight.to(torch.bfloat16).to(torch.float16)
            convolution.weight.copy_(rounded.to(torch.float32))


def fold_norms(network: nn.Module) -> None:
    """Multiply, in place, each batch norm into the convolution before it, and leave the norm out.

    For the network in evaluation mode: a pass through the image less for every norm.
    """
    for name, (convolution, norm) in _convolutions(network).items():
        if norm is not None:
            _replace(network, name, fuse_conv_bn_eval(convolution, norm[1]))
            _replace(network, norm[0], nn.Identity())


def _convolutions(
    network: nn.Module,
) -> dict[str, tuple[nn.Conv2d, tuple[str, nn.BatchNorm2d] | None]]:
    """Return the convolutions by name, each with the batch norm that alone takes its output."""
    modules = dict(network.named_modules())
    found: dict[str, tuple[nn.Conv2d, tuple[str, nn.BatchNorm2d] | None]] = {}
    for node in torch.fx.symbolic_trace(network).graph.nodes:
        convolution = modules.get(str(node.target)) if node.op == 'call_module' else None
        if not isinstance(convolution, nn.Conv2d):
            continue
        (user, *others) = node.users
        norm = modules.get(str(user.target)) if user.op == 'call_module' else None
        found[str(node.target)] = (convolution, None)
        if isinstance(norm, nn.BatchNorm2d) and not others and norm.running_var is not None:
            found[str(node.target)] = (convolution, (str(user.target), norm))
    return found


def _replace(network: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition('.')
    setattr(network.get_submodule(parent), child, module)


def _fold(norm: nn.BatchNorm2d, convolution: nn.Conv2d) -> None:
    """Move the factor of a norm into the convolution before it; a factor of 0 stays."""
    assert norm.running_var is not None
    assert norm.running_mean is not None
    deviation = torch.sqrt(norm.running_var + norm.eps)
    scale = torch.where(norm.weight == 0, 1, norm.weight / deviation)
    norm.weight.copy_(torch.where(norm.weight == 0, 0, deviation))
    norm.running_mean.mul_(scale)
    convolution.weight.mul_(scale.view(-1, 1, 1, 1))
    if convolution.bias is not None:
        convolution.bias.mul_(scale)


def save_safetensors(network: nn.Module, info: ModelInfo, path: str | os.PathLike[str]) -> None:
    """Write the network's weights and metadata; the file appears complete or not at all.

    Weights of convolutions that float16 holds exactly (see `round_weights`) take half the room.
    """
    from safetensors.torch import save

    tensors = {}
    for name, tensor in network.state_dict().items():
        half = tensor.to(torch.float16)
        exact = (
            tensor.ndim == 4
            and tensor.dtype == torch.float32
            and torch.equal(half.to(torch.float32), tensor)
        )
        tensors[name] = (half if exact else tensor).contiguous()
    write_model(path, save(tensors, model_metadata(_measuring(network, info))))


def _measuring(network: nn.Module, info: ModelInfo) -> ModelInfo:
    """Return what is said of a model, with what its network measures."""
    return replace(info, measures=tuple(getattr(network, 'measures', ())))


def export_onnx(
    network: nn.Module,
    info: ModelInfo,
    path: str | os.PathLike[str],
    label_stride: int | None = None,
) -> None:
    """Write the network's graph and its metadata as one ONNX file of any input size.

    The batch, the height and the width stay symbolic; a backend fixes them when it loads.
    The file appears complete or not at all.
    """
    classes = info.label_space.num_classes
    further = given_outputs(network)
    if isinstance(network, SegmentationNetwork):
        network = copy.deepcopy(network)
        network.simplify()
    graph = ImageToLabels(network, info.mean, info.std, label_stride, further).eval()
    example = (torch.zeros(2, 96, 128, 3, dtype=torch.uint8), torch.zeros(classes))
    try:
        with torch.no_grad(), quiet_exporter():
            given = tuple(network(torch.zeros(1, 3, 96, 128)).shape[1:])
            if given != (classes, 96 // NETWORK_STRIDE, 128 // NETWORK_STRIDE):
                raise ModelError(
                    f'network {info.network} gives {given} for an image of 96x128; {classes} '
                    f'classes at stride {NETWORK_STRIDE} are wanted'
                )
            program = torch.onnx.export(
                graph,
                example,
                dynamo=True,
                opset_version=OPSET,
                input_names=INPUT_NAMES,
                output_names=[
                    *OUTPUT_NAMES,
                    *(_EMBEDDING if name == EMBEDDING else name for name in further),
                ],
                dynamic_shapes=({0: 'batch', 1: 'height', 2: 'width'}, None),
                verbose=False,
            )
    except RuntimeError as error:
        raise ModelError(
            f'network {info.network} with the {classes} classes of label space '
            f'{info.label_space.name} cannot be exported: {str(error).splitlines()[0]}'
        ) from error
    assert program is not None
    model = program.model_proto
    model.ir_version = IR_VERSION
    _name_float32(model.graph, graph)
    _name_embedding(model.graph)
    _halve_weights(model.graph)
    _cast_first(model.graph)
    _strip(model)
    for key, value in model_metadata(_measuring(network, info)).items():
        model.metadata_props.add(key=key, value=value)
    write_model(path, model.SerializeToString())


def _name_float32(graph: onnx.GraphProto, network: nn.Module) -> None:
    """Begin the names of the nodes that must compute in float32 with `IN_FLOAT32`.

    They come of an `InFloat32`, or, where the exporter's optimiser made them and forgot of what,
    lie between such.
    """
    kept = {name for name, module in network.named_modules() if isinstance(module, InFloat32)}
    users: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)
    for node in reversed(graph.node):
        notes = {note.key: note.value for note in node.metadata_props}
        scopes = notes.get('pkg.torch.onnx.name_scopes')
        after = [user.name for name in node.output for user in users.get(name, ())]
        if (
            not kept.isdisjoint(literal_eval(scopes)[:-1])  # the last is the node's own
            if scopes
            else after and all(name.startswith(IN_FLOAT32) for name in after)
        ):
            node.name = IN_FLOAT32 + node.name


def _name_embedding(graph: onnx.GraphProto) -> None:
    """Give the output its name, which the exporter itself gives to what looks up a table."""
    for old, new in ((EMBEDDING, f'{EMBEDDING}_of_labels'), (_EMBEDDING, EMBEDDING)):
        for node in graph.node:
            for names in (node.input, node.output):
                for position, name in enumerate(names):
                    if name == old:
                        names[position] = new
        for output in graph.output:
            output.name = new if output.name == old else output.name


def _cast_first(graph: onnx.GraphProto) -> None:
    """Leave the cast to float as the only node that sees the uint8 image, as TensorRT wants it."""
    image = INPUT_NAMES[0]
    (cast,) = (node for node in graph.node if node.op_type == 'Cast' and image in node.input)
    graph.node.remove(cast)
    graph.node.insert(0, cast)
    for node in graph.node[1:]:
        for position, name in enumerate(node.input):
            if name == image:
                node.input[position] = cast.output[0]


def _halve_weights(graph: onnx.GraphProto) -> None:
    """Store weights of convolutions as float16, with a cast, where that changes no value.

    The exporter multiplies by a norm's factor of 1, which is off by an ulp of float32.
    """
    import onnx
    from onnx import helper, numpy_helper

    for weights in graph.initializer:
        if len(weights.dims) != 4 or weights.data_type != onnx.TensorProto.FLOAT:
            continue
        values = numpy_helper.to_array(weights)
        half = values.astype(np.float16)
        if not np.allclose(half.astype(np.float32), values, rtol=1e-6, atol=0):
            continue
        name = weights.name
        weights.CopyFrom(numpy_helper.from_array(half, f'{name}_half'))
        cast = helper.make_node('Cast', [weights.name], [name], to=onnx.TensorProto.FLOAT)
        graph.node.insert(0, cast)


def _strip(model: onnx.ModelProto) -> None:
    """Remove what the exporter notes of its own machine: stack traces, source paths, names."""
    graph = model.graph
    values = (*graph.input, *graph.output, *graph.initializer)
    for part in (model, graph, *graph.node, *values):
        part.doc_string = ''
        del part.metadata_props[:]
    del graph.value_info[:]


@contextmanager
def quiet_exporter() -> Iterator[None]:
    """Silence the exporter's remarks on its own passes and on packages not used here."""
    loggers = [logging.getLogger(name) for name in ('torch.onnx', 'onnxscript', 'onnx_ir')]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
