"""Networks by name, so that a model file can say which one its weights belong to."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import nn

from lwseg_ros.errors import ModelError
from lwseg_ros.networks.light_weight_refinenet import (
    JointLightWeightRefineNet,
    LightWeightRefineNetMobileNetV2,
    LightWeightRefineNetResNet,
)

_NETWORKS: dict[str, Callable[[int], nn.Module]] = {
    'lw_refinenet_resnet50': partial(LightWeightRefineNetResNet, depth=50),
    'lw_refinenet_resnet101': partial(LightWeightRefineNetResNet, depth=101),
    'lw_refinenet_resnet152': partial(LightWeightRefineNetResNet, depth=152),
    'lw_refinenet_mobilenet_v2': LightWeightRefineNetMobileNetV2,
    'lw_refinenet_mobilenet_v2_torchvision': partial(
        LightWeightRefineNetMobileNetV2, expand_first=False
    ),
    'lw_refinenet_mobilenet_v2_joint': JointLightWeightRefineNet,
    'lw_refinenet_mobilenet_v2_joint_normals': partial(
        JointLightWeightRefineNet, tasks=('depth', 'normal')
    ),
}


def list_networks() -> list[str]:
    """Return the names `create_network` knows."""
    return sorted(_NETWORKS)


def create_network(name: str, num_classes: int) -> nn.Module:
    """Build a network with fresh weights, in training mode.

    It maps normalised RGB, float `[N, 3, H, W]`, to logits
    `[N, num_classes, ceil(H/4), ceil(W/4)]`. ModelError for an unknown name.
    """
    if name not in _NETWORKS:
        raise ModelError(f'there is no network {name!r}: give one of {", ".join(list_networks())}')
    return _NETWORKS[name](num_classes)
