"""Backbones: the papers' blocks and the public checkpoints' names."""

import pytest
from paths_for_tests import shared

torch = pytest.importorskip('torch')

from torch.nn import functional as F  # noqa: E402

from lwseg_ros.networks import create_network  # noqa: E402
from lwseg_ros.networks.backbones.efficientvit import (  # noqa: E402
    HEAD_CHANNELS,
    EfficientViT,
    LinearAttention,
)
from lwseg_ros.networks.backbones.van import (  # noqa: E402
    Attention,
    Block,
    DropPath,
    LargeKernelAttention,
    VisualAttentionNetwork,
)


@pytest.mark.parametrize(
    ('size', 'count'),
    [('b0', 3_848_800), ('b1', 13_348_800), ('b2', 26_065_472), ('b3', 44_252_608)],
)
def test_van_parameter_count(size, count):
    with torch.device('meta'):
        network = VisualAttentionNetwork(size)
    assert sum(p.numel() for p in network.parameters()) == count


def test_van_keys_are_those_of_the_public_checkpoints():
    norm = ['weight', 'bias', 'running_mean', 'running_var', 'num_batches_tracked']
    block = [f'{n}.{leaf}' for n in ('norm1', 'norm2') for leaf in norm]
    convolutions = (
        *('attn.proj_1', 'attn.proj_2', 'mlp.fc1', 'mlp.fc2', 'mlp.dwconv.dwconv'),
        *(f'attn.spatial_gating_unit.{c}' for c in ('conv0', 'conv_spatial', 'conv1')),
    )
    block += [f'{c}.{leaf}' for c in convolutions for leaf in ('weight', 'bias')]
    block += ['layer_scale_1', 'layer_scale_2']
    wanted = set()
    for stage, depth in enumerate((3, 3, 5, 2), start=1):
        wanted |= {f'patch_embed{stage}.proj.{leaf}' for leaf in ('weight', 'bias')}
        wanted |= {f'patch_embed{stage}.norm.{leaf}' for leaf in norm}
        wanted |= {f'block{stage}.{i}.{key}' for i in range(depth) for key in block}
        wanted |= {f'norm{stage}.weight', f'norm{stage}.bias'}
    with torch.device('meta'):
        assert set(VisualAttentionNetwork('b0').state_dict()) == wanted


@pytest.mark.parametrize('size', [(32, 32), (33, 47), (65, 127)])
def test_van_features_are_normalised_maps_of_halving_sizes(size):
    torch.manual_seed(0)
    network = VisualAttentionNetwork('b0').eval()
    with torch.inference_mode():
        features = network.features(torch.randn(1, 3, *size))
    for x, channels, stride in zip(
        features, network.feature_channels, network.feature_strides, strict=True
    ):
        assert x.shape == (1, channels, -(-size[0] // stride), -(-size[1] // stride))
        torch.testing.assert_close(x.mean(1), torch.zeros_like(x[:, 0]), rtol=0, atol=1e-5)


def plain_large_kernel_attention(unit, x):
    channels = x.shape[1]
    a = F.conv2d(x, unit.conv0.weight, unit.conv0.bias, padding=2, groups=channels)
    a = F.conv2d(
        a, unit.conv_spatial.weight, unit.conv_spatial.bias, padding=9, dilation=3, groups=channels
    )
    return x * F.conv2d(a, unit.conv1.weight, unit.conv1.bias)


def test_large_kernel_attention_is_the_gated_composition():
    torch.manual_seed(0)
    unit = LargeKernelAttention(3)
    x = torch.randn(2, 3, 24, 21)
    torch.testing.assert_close(unit(x), plain_large_kernel_attention(unit, x))


def test_large_kernel_attention_sees_21_by_21_and_a_little_more():
    """5x5, then 7x7 of dilation 3: 2 + 9 pixels to each side."""
    unit = LargeKernelAttention(1)
    for p in unit.parameters():
        torch.nn.init.ones_(p)
    x = torch.ones(1, 1, 41, 41, requires_grad=True)
    unit(x)[0, 0, 20, 20].backward()
    seen = x.grad[0, 0].nonzero()
    assert seen.min() == 20 - 11
    assert seen.max() == 20 + 11


def test_attention_has_an_inner_shortcut():
    torch.manual_seed(0)
    attention = Attention(3)
    x = torch.randn(1, 3, 9, 8)
    hidden = F.gelu(F.conv2d(x, attention.proj_1.weight, attention.proj_1.bias))
    gated = plain_large_kernel_attention(attention.spatial_gating_unit, hidden)
    wanted = x + F.conv2d(gated, attention.proj_2.weight, attention.proj_2.bias)
    torch.testing.assert_close(attention(x), wanted)


def test_block_scales_its_branches_from_the_identity():
    torch.manual_seed(0)
    block = Block(4, mlp_ratio=2, drop_path=0.0).eval()
    x = torch.randn(1, 4, 8, 8)
    assert torch.all(block.layer_scale_1 == 1e-2)
    torch.nn.init.zeros_(block.layer_scale_2)
    torch.testing.assert_close(block(x), x + 1e-2 * block.attn(block.norm1(x)))
    torch.nn.init.zeros_(block.layer_scale_1)
    assert torch.equal(block(x), x)


def test_drop_path_drops_whole_images_in_training_only():
    torch.manual_seed(0)
    drop = DropPath(0.25)
    x = torch.ones(400, 2, 3, 3)
    assert torch.equal(drop.eval()(x), x)
    values = drop.train()(x).flatten(1)
    assert torch.equal(values, values[:, :1].expand_as(values))
    kept = values[:, 0] > 0
    assert 0.65 < kept.float().mean() < 0.85
    torch.testing.assert_close(values[kept], torch.full_like(values[kept], 4 / 3))


def test_drop_path_grows_linearly_over_the_blocks():
    with torch.device('meta'):
        network = VisualAttentionNetwork('b0', drop_path=0.1)
    given = [m.probability for m in network.modules() if isinstance(m, DropPath)]
    assert given == pytest.approx([0.1 * i / 12 for i in range(13)])


def plain_linear_attention(qkv):
    """Attend pixel by pixel, head by head, in double precision."""
    number, channels, height, width = qkv.shape
    heads = qkv.double().reshape(number, -1, 3 * HEAD_CHANNELS, height * width)
    out = torch.zeros(number, heads.shape[1], HEAD_CHANNELS, height * width, dtype=torch.float64)
    for image in range(number):
        for head in range(heads.shape[1]):
            query, key, value = heads[image, head].split(HEAD_CHANNELS)
            weights = query.relu().T @ key.relu()
            out[image, head] = (weights @ value.T / weights.sum(1, keepdim=True)).T
    return out.reshape(number, channels // 3, height, width)


@pytest.mark.parametrize('factor', [1.0, 1e3])
def test_linear_attention_weighs_the_values_by_products_of_queries_and_keys(factor):
    torch.manual_seed(0)
    qkv = factor * torch.randn(2, 6 * HEAD_CHANNELS, 5, 7)
    attended = LinearAttention()(qkv)
    wanted = plain_linear_attention(qkv).float()
    torch.testing.assert_close(attended, wanted, rtol=1e-4, atol=1e-4 * factor)


def test_attention_without_any_match_is_nothing():
    assert not LinearAttention()(-torch.ones(1, 3 * HEAD_CHANNELS, 2, 2)).any()


def test_attention_sums_in_float32_under_autocast():
    torch.manual_seed(0)
    qkv = torch.randn(1, 3 * HEAD_CHANNELS, 60, 80)
    with torch.autocast('cpu', torch.bfloat16):
        attended = LinearAttention()(qkv)
    assert attended.dtype == torch.float32
    torch.testing.assert_close(attended, LinearAttention()(qkv), rtol=0, atol=0)


def test_efficientvit_features_have_their_channels_and_strides():
    network = EfficientViT().eval()
    with torch.inference_mode():
        features = network.features(torch.zeros(1, 3, 65, 127))
    for x, channels, stride in zip(
        features, network.feature_channels, network.feature_strides, strict=True
    ):
        assert x.shape == (1, channels, -(-65 // stride), -(-127 // stride))


def test_efficientvit_takes_the_public_weights():
    from lwseg_ros.training.checkpoint_import import load_encoder_weights, load_weights

    path = shared('weights/efficientvit_b0_cityscapes.safetensors')
    published = create_network('efficientvit_seg_b0', 19)
    load_weights(published, path)
    assert sum(p.numel() for p in published.parameters()) == 706_691
    ours = create_network('lw_refinenet_efficientvit_b0', 11)
    load_encoder_weights(ours, path)
    image = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        for given, wanted in zip(
            ours.backbone.eval().features(image),
            published.backbone.eval().features(image),
            strict=True,
        ):
            torch.testing.assert_close(given, wanted, rtol=0, atol=0)
