"""Loading weights that others saved: the authors' checkpoints, ImageNet encoders, safetensors.

A load that matches nothing, misses a weight or meets one of another shape is an error.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from lwseg_ros.datasets.dataset import data_root
from lwseg_ros.errors import ModelError
from lwseg_ros.inference.graph import save_safetensors
from lwseg_ros.inference.model_info import ModelInfo
from lwseg_ros.inference.model_source import list_models, resolve_model
from lwseg_ros.label_space import LabelSpace
from lwseg_ros.networks import create_network
from lwseg_ros.networks.backbones.mobilenet_v2 import MobileNetV2, imagenet_keys
from lwseg_ros.networks.backbones.resnet import ResNet
from lwseg_ros.networks.efficientvit_seg import EfficientViTSeg
from lwseg_ros.networks.feature_pyramid import FeaturePyramidNetwork
from lwseg_ros.networks.light_weight_refinenet import LightWeightRefineNet

CONTAINERS = ('segmenter', 'model', 'state_dict')
"""Keys under which the authors' and others' checkpoints hold the state dict."""


def find_weights(name: str, root: Path | None = None) -> Path:
    """Return the .safetensors of a shipped model by its name, else the file of that path.

    A relative path starts from the data's root, or else from the working folder.
    """
    path = data_root(root) / name
    if name not in list_models() and path.is_file():
        return path
    return resolve_model(name, '.safetensors')


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read a .safetensors file or a PyTorch checkpoint, whichever container it is in.

    PyTorch files are read with `weights_only=True`: tensors and plain containers, never code.
    """
    try:
        if path.suffix == '.safetensors':
            return load_file(path)
        content = torch.load(path, map_location='cpu', weights_only=True)
    except FileNotFoundError:
        raise ModelError(f'there is no checkpoint {path}') from None
    except pickle.UnpicklingError as error:
        reason = str(error).splitlines()[0]
        raise ModelError(f'checkpoint {path} holds more than weights: {reason}') from None
    except (SafetensorError, RuntimeError, EOFError, OSError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelError(f'checkpoint {path} cannot be read: {reason}') from None
    return _unwrap(content, path)


def _unwrap(content: Any, path: Path) -> dict[str, Tensor]:
    if isinstance(content, Mapping):
        for container in CONTAINERS:
            if isinstance(content.get(container), Mapping):
                content = content[container]
                break
    if not isinstance(content, Mapping):
        raise ModelError(f'checkpoint {path} is a {type(content).__name__}, not a state dict')
    state = {str(k): v for k, v in content.items() if isinstance(v, Tensor)}
    if not state:
        raise ModelError(
            f'checkpoint {path} holds no weights: wanted a state dict, bare or under '
            f'{", ".join(CONTAINERS)}; found {", ".join(map(str, list(content)[:8]))}'
        )
    prefix = 'module.'
    if all(key.startswith(prefix) for key in state):
        state = {key[len(prefix) :]: value for key, value in state.items()}
    return state


def load_weights(network: nn.Module, path: Path) -> None:
    """Fill every weight of `network` from a checkpoint of the same network and class count."""
    state = read_state_dict(path)
    wanted = set(network.state_dict())
    unknown = sorted(set(state) - wanted)
    if unknown and not wanted - set(state):
        raise ModelError(
            f'checkpoint {path} has {len(unknown)} weights that the network lacks, '
            f'{_some(unknown)}: it belongs to another network'
        )
    _load(network, state, wanted, path)


def load_encoder_weights(network: nn.Module, path: Path) -> None:
    """Fill the encoder of `network` from ImageNet weights; its decoder keeps its own.

    Takes torchvision's key names (MobileNet-v2, ResNet) and those of the authors of VAN and
    EfficientViT, and a whole network's on the same backbone; weights
    beyond the encoder (the classifier, the stages that a smaller network lacks) are left out.
    """
    state = read_state_dict(path)
    encoder, prefix = _encoder(network)
    if isinstance(encoder, MobileNetV2) and any(key.startswith('features.') for key in state):
        state = imagenet_keys(state)
    if not any(key.startswith(prefix) for key in state):
        state = {prefix + key: value for key, value in state.items()}
    _load(network, state, encoder_keys(network), path)


def encoder_keys(network: nn.Module) -> set[str]:
    """Return the names of the weights that the network's encoder holds."""
    encoder, prefix = _encoder(network)
    parts: tuple[str, ...] = ('',)
    if encoder is network:  # a subclass of its encoder, with the decoder's weights beside
        parts = ('layer', 'conv1.', 'bn1.') if isinstance(network, ResNet) else ('layer',)
    return {prefix + key for key in encoder.state_dict() if key.startswith(parts)}


def _encoder(network: nn.Module) -> tuple[nn.Module, str]:
    """Return the network's encoder and the prefix of its weights' names in the network."""
    if isinstance(network, (EfficientViTSeg, FeaturePyramidNetwork, LightWeightRefineNet)):
        return network.backbone, 'backbone.'
    if isinstance(network, (MobileNetV2, ResNet)):
        return network, ''
    raise ModelError(f'{type(network).__name__} has no encoder that is known here')


def _load(network: nn.Module, state: Mapping[str, Tensor], wanted: set[str], path: Path) -> None:
    own = network.state_dict()
    # Files of PyTorch before 0.4.1 have no num_batches_tracked; nothing here depends on it.
    missing = sorted(k for k in wanted - set(state) if not k.endswith('num_batches_tracked'))
    if missing:
        raise ModelError(
            f'checkpoint {path} lacks {len(missing)} of {len(wanted)} weights of '
            f'{type(network).__name__}, {_some(missing)}; it has {_some(sorted(state))}'
        )
    found = {key: state[key] for key in sorted(wanted & set(state))}
    wrong = [k for k, v in found.items() if v.shape != own[k].shape]
    if wrong:
        key = wrong[0]
        raise ModelError(
            f'checkpoint {path}: {key} is {list(found[key].shape)}, the network wants '
            f'{list(own[key].shape)} ({len(wrong)} such weights): another class count or network'
        )
    network.load_state_dict(found, strict=False)


def _some(keys: list[str]) -> str:
    return ', '.join(keys[:3]) + (', …' if len(keys) > 3 else '')


def import_checkpoint(
    checkpoint: Path, out: Path, network: str, label_space: str, input_size: tuple[int, int]
) -> None:
    """Turn somebody's checkpoint of a catalog network into a model file of ours, safetensors.

    The normalisation is ImageNet's, as in the authors' release. ModelError or DataError if the
    checkpoint is not of that network and label space.
    """
    space = LabelSpace.load(label_space)
    model = create_network(network, space.num_classes)
    load_weights(model, checkpoint)
    info = ModelInfo(
        name=checkpoint.stem,
        network=network,
        label_space=space,
        input_size=input_size,
        provenance={'checkpoint': checkpoint.name},
    )
    save_safetensors(model, info, out)
