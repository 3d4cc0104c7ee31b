"""Networks by name, so that a model file can say which one its weights belong to."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import nn

from lwseg_ros.errors import ModelError
from lwseg_ros.networks.backbones.efficientvit import EfficientViT
from lwseg_ros.networks.backbones.mobilenet_v2 import MobileNetV2
from lwseg_ros.networks.backbones.resnet import ResNet
from lwseg_ros.networks.backbones.van import VisualAttentionNetwork
from lwseg_ros.networks.context import (
    AtrousSpatialPyramidPooling,
    NonLocalContext,
    PyramidPooling,
)
from lwseg_ros.networks.efficientvit_seg import EfficientViTSeg
from lwseg_ros.networks.feature_pyramid import Backbone, FeaturePyramidNetwork
from lwseg_ros.networks.feature_refinement import FeatureRefinementModule
from lwseg_ros.networks.layers import SegmentationNetwork
from lwseg_ros.networks.light_weight_refinenet import (
    JointLightWeightRefineNet,
    LightWeightRefineNet,
    LightWeightRefineNetMobileNetV2,
    LightWeightRefineNetResNet,
    NanoLightWeightRefineNet,
)

_BACKBONES: dict[str, Callable[[], Backbone]] = {
    'efficientvit_b0': EfficientViT,
    'mobilenet_v2': partial(MobileNetV2, expand_first=False),
    'van_b0': partial(VisualAttentionNetwork, 'b0'),
    'van_b1': partial(VisualAttentionNetwork, 'b1'),
    'van_b2': partial(VisualAttentionNetwork, 'b2'),
    'van_b3': partial(VisualAttentionNetwork, 'b3'),
    'resnet50': partial(ResNet, 50),
    'resnet101': partial(ResNet, 101),
    'resnet152': partial(ResNet, 152),
}

_CONTEXTS: dict[str, Callable[[Backbone], nn.Module | None]] = {
    'fpn': lambda backbone: None,
    'fpn_ppm': lambda backbone: PyramidPooling(backbone.feature_channels[-1]),
    'fpn_aspp': lambda backbone: AtrousSpatialPyramidPooling(backbone.feature_channels[-1]),
    'fpn_dnl': lambda backbone: NonLocalContext(backbone.feature_channels[-1]),
    'frm_top': lambda backbone: FeatureRefinementModule(backbone.feature_channels, 'top'),
    'frm_split': lambda backbone: FeatureRefinementModule(
        backbone.feature_channels, 'split', centred=backbone.centred
    ),
}

_COMPACT = {'width': 128, 'head_width': 64}
_COMPACT_BACKBONES = ('mobilenet_v2', 'van_b0')
_WIDTHS = {'efficientvit_b0': {'width': 64, 'head_width': 64}}
"""Of pyramids on backbones so thin that a wide 3x3 at stride 4 would be most of their cost."""


def _feature_pyramid(
    num_classes: int, context: str, backbone: str, **widths: int
) -> FeaturePyramidNetwork:
    encoder = _BACKBONES[backbone]()
    module = _CONTEXTS[context](encoder)
    return FeaturePyramidNetwork(encoder, num_classes, context=module, **widths)


def _on_efficientvit(num_classes: int, width: int) -> LightWeightRefineNet:
    return LightWeightRefineNet(EfficientViT(), num_classes, width)


_NETWORKS: dict[str, Callable[[int], SegmentationNetwork]] = {
    'lw_refinenet_resnet50': partial(LightWeightRefineNetResNet, depth=50),
    'lw_refinenet_resnet101': partial(LightWeightRefineNetResNet, depth=101),
    'lw_refinenet_resnet152': partial(LightWeightRefineNetResNet, depth=152),
    'lw_refinenet_mobilenet_v2': LightWeightRefineNetMobileNetV2,
    'lw_refinenet_mobilenet_v2_torchvision': partial(
        LightWeightRefineNetMobileNetV2, expand_first=False
    ),
    'lw_refinenet_mobilenet_v2_nano': NanoLightWeightRefineNet,
    'lw_refinenet_mobilenet_v2_joint': JointLightWeightRefineNet,
    'lw_refinenet_mobilenet_v2_joint_normals': partial(
        JointLightWeightRefineNet, measures=('depth', 'normals')
    ),
    'lw_refinenet_efficientvit_b0': partial(_on_efficientvit, width=96),
    **{
        f'lw_refinenet_efficientvit_b0_{width}': partial(_on_efficientvit, width=width)
        for width in (32, 48, 64, 128)
    },
    'efficientvit_seg_b0': EfficientViTSeg,
    **{
        f'{context}_{backbone}': partial(
            _feature_pyramid, context=context, backbone=backbone, **_WIDTHS.get(backbone, {})
        )
        for context in _CONTEXTS
        for backbone in _BACKBONES
    },
    **{
        f'{context}_{backbone}_compact': partial(
            _feature_pyramid, context=context, backbone=backbone, **_COMPACT
        )
        for context in _CONTEXTS
        for backbone in _COMPACT_BACKBONES
    },
}


def list_networks() -> list[str]:
    """Return the names `create_network` knows."""
    return sorted(_NETWORKS)


def create_network(name: str, num_classes: int) -> SegmentationNetwork:
    """Build a network with fresh weights, in training mode.

    It maps normalised RGB, float `[N, 3, H, W]`, to logits
    `[N, num_classes, ceil(H/4), ceil(W/4)]`. ModelError for an unknown name.
    """
    if name not in _NETWORKS:
        raise ModelError(f'there is no network {name!r}: give one of {", ".join(list_networks())}')
    return _NETWORKS[name](num_classes)
