"""The disentangled non-local block against its formula, the refinement module around it."""

import math

import pytest

torch = pytest.importorskip('torch')

from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from lwseg_ros.networks.context import (  # noqa: E402
    AtrousSpatialPyramidPooling,
    NonLocalContext,
    PyramidPooling,
)
from lwseg_ros.networks.feature_refinement import (  # noqa: E402
    DisentangledNonLocal,
    FeatureRefinementModule,
)


@pytest.fixture
def block():
    """A block whose attention is far from uniform."""
    torch.manual_seed(0)
    block = DisentangledNonLocal(3)
    for parameter in block.parameters():
        nn.init.normal_(parameter)
    return block


@pytest.fixture
def x():
    torch.manual_seed(1)
    return torch.randn(1, 3, 2, 4)


def softmax(values):
    exponentials = [math.exp(v - max(values)) for v in values]
    return [e / sum(exponentials) for e in exponentials]


def convolved(layer, position):
    """Apply a 1x1 convolution to one position, in plain Python."""
    weight = layer.weight[:, :, 0, 0].tolist()
    bias = [0.0] * len(weight) if layer.bias is None else layer.bias.tolist()
    return [
        b + sum(w * v for w, v in zip(row, position, strict=True))
        for row, b in zip(weight, bias, strict=True)
    ]


def whitened(vectors):
    means = [sum(column) / len(vectors) for column in zip(*vectors, strict=True)]
    return [[v - m for v, m in zip(vector, means, strict=True)] for vector in vectors]


def test_dnl_is_its_formula_in_plain_loops(block, x):
    positions = x[0].flatten(1).T.tolist()
    queries = whitened([convolved(block.query, p) for p in positions])
    keys = whitened([convolved(block.key, p) for p in positions])
    values = [convolved(block.value, p) for p in positions]
    unary = softmax([convolved(block.mask, p)[0] for p in positions])
    wanted = []
    for query in queries:
        pairwise = softmax([sum(a * b for a, b in zip(query, k, strict=True)) for k in keys])
        gathered = [0.0] * 3
        for pair, alone, value in zip(pairwise, unary, values, strict=True):
            gathered = [g + (pair + alone) * v for g, v in zip(gathered, value, strict=True)]
        wanted.append(convolved(block.output, gathered))
    with torch.no_grad():
        given = block(x)[0].flatten(1).T
    torch.testing.assert_close(given, torch.tensor(wanted), rtol=1e-4, atol=1e-4)


def test_every_row_of_both_maps_sums_to_one(block, x):
    pairwise, unary = block.attention(x)
    assert pairwise.shape == (1, 8, 8)
    assert unary.shape == (1, 1, 8)
    assert pairwise.std() > 0.05, 'a uniform map would pass every test'
    torch.testing.assert_close(pairwise.sum(2), torch.ones(1, 8))
    torch.testing.assert_close((pairwise + unary).sum(2), torch.full((1, 8), 2.0))


@pytest.mark.parametrize('layer', ['query', 'key'])
def test_a_constant_on_every_query_or_key_changes_nothing(layer, block, x):
    before, _ = block.attention(x)
    constant = torch.tensor([3.0, -2.0, 1.0]).view(1, 3, 1, 1)
    block.get_submodule(layer).register_forward_hook(lambda module, args, out: out + constant)
    after, _ = block.attention(x)
    torch.testing.assert_close(after, before)


def test_the_unary_term_is_the_same_for_every_position(block, x):
    nn.init.zeros_(block.query.weight)
    y = block(x)
    torch.testing.assert_close(y, y[:, :, :1, :1].expand_as(y))
    assert not torch.allclose(y, block(x.flip(1)))


def test_permuted_positions_permute_the_output(block, x):
    order = torch.randperm(8)
    permuted = x.flatten(2)[:, :, order].view_as(x)
    wanted = block(x).flatten(2)[:, :, order].view_as(x)
    torch.testing.assert_close(block(permuted), wanted)


def test_attention_stays_exact_under_bf16_autocast():
    torch.manual_seed(0)
    block = DisentangledNonLocal(4)
    with torch.no_grad(), torch.autocast('cpu', torch.bfloat16):
        pairwise, unary = block.attention(torch.randn(1, 4, 32, 64))
        assert block(100 * torch.randn(1, 4, 32, 64)).isfinite().all()
    assert pairwise.dtype == unary.dtype == torch.float32
    torch.testing.assert_close(pairwise.sum(2), torch.ones(1, 2048))
    torch.testing.assert_close(unary.sum(2), torch.ones(1, 1))


@pytest.mark.parametrize('channels', [512, 1024, 3840])
def test_products_start_with_unit_variance_at_any_width(channels):
    torch.manual_seed(0)
    block = DisentangledNonLocal(channels)
    pairwise, _ = block.attention(torch.randn(1, channels, 8, 8))
    products = pairwise.log()
    assert 0.8 < (products - products.mean(2, keepdim=True)).std() < 1.2


CHANNELS = (4, 6, 8, 10)


def maps(height, width, batch=1):
    torch.manual_seed(2)
    return [
        torch.randn(batch, c, -(-height // s), -(-width // s))
        for c, s in zip(CHANNELS, (4, 8, 16, 32), strict=True)
    ]


def without_block(module):
    """Leave the module's context as the joined maps alone."""
    for layer in (module.non_local.output, module.reduce):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    return module


def test_stages_are_pooled_to_the_last_and_joined():
    features = maps(96, 64)
    module = without_block(FeatureRefinementModule(CHANNELS, 'top')).eval()
    wanted = torch.cat([F.adaptive_avg_pool2d(f, (3, 2)) for f in features], 1)
    torch.testing.assert_close(module.context(features), wanted)


def test_cells_at_the_border_average_what_there_is():
    features = maps(65, 127)
    module = without_block(FeatureRefinementModule(CHANNELS, 'top')).eval()
    given = module.context(features)
    start = 0
    for feature, window in zip(features, (8, 4, 2, 1), strict=True):
        for row, column in ((0, 0), (2, 3), (1, 3), (2, 0)):
            rows = slice(row * window, (row + 1) * window)
            columns = slice(column * window, (column + 1) * window)
            wanted = feature[0, :, rows, columns].mean((1, 2))
            cell = given[0, start : start + feature.shape[1], row, column]
            torch.testing.assert_close(cell, wanted)
        start += feature.shape[1]


def test_block_is_pre_norm_and_residual():
    torch.manual_seed(0)
    module = FeatureRefinementModule(CHANNELS, 'top').eval()
    for norm in (module.norm1, module.norm2):
        nn.init.normal_(norm.running_mean)
    features = maps(64, 96)
    joined = torch.cat([F.adaptive_avg_pool2d(f, (2, 3)) for f in features], 1)
    mixed = joined + module.non_local(module.norm1(joined))
    hidden = F.gelu(module.expand(module.norm2(mixed)))
    assert hidden.shape[1] == 4 * sum(CHANNELS)
    torch.testing.assert_close(module.context(features), mixed + module.reduce(hidden))


def test_top_replaces_the_last_stage_alone():
    features = maps(64, 96)
    module = FeatureRefinementModule(CHANNELS, 'top').eval()
    refined = module(features)
    for given, feature in zip(refined[:3], features[:3], strict=True):
        assert given is feature
    torch.testing.assert_close(refined[3], module.project(module.context(features)))


def test_split_adds_its_share_to_every_stage():
    features = maps(64, 96)
    module = FeatureRefinementModule(CHANNELS, 'split').eval()
    shares = module.project(module.context(features))
    start = 0
    for given, feature in zip(module(features), features, strict=True):
        share = shares[:, start : start + feature.shape[1]]
        share = F.interpolate(share, feature.shape[2:], mode='bilinear', align_corners=True)
        torch.testing.assert_close(given, feature + share)
        start += feature.shape[1]


MODULES = {
    'frm top': lambda: FeatureRefinementModule(CHANNELS, 'top'),
    'frm split': lambda: FeatureRefinementModule(CHANNELS, 'split'),
    'ppm': lambda: PyramidPooling(CHANNELS[-1]),
    'aspp': lambda: AtrousSpatialPyramidPooling(CHANNELS[-1]),
    'dnl': lambda: NonLocalContext(CHANNELS[-1]),
}


@pytest.mark.parametrize('size', [(32, 32), (33, 47), (65, 127), (96, 64)])
@pytest.mark.parametrize('name', MODULES)
def test_context_keeps_every_shape(name, size):
    features = maps(*size, batch=2)
    refined = MODULES[name]()(features)
    assert [r.shape for r in refined] == [f.shape for f in features]


@pytest.mark.parametrize('name', MODULES)
def test_context_reaches_from_one_corner_to_the_other(name):
    torch.manual_seed(0)
    module = MODULES[name]().eval()
    features = maps(256, 320)
    changed = [f.clone() for f in features]
    changed[3][..., 0, 0] += 1
    with torch.no_grad():
        before, after = module(features)[3], module(changed)[3]
    assert (after - before)[..., -1, -1].abs().max() > 1e-5


@pytest.mark.parametrize('output', ['top', 'split'])
def test_fine_detail_reaches_the_refined_maps(output):
    torch.manual_seed(0)
    module = FeatureRefinementModule(CHANNELS, output).eval()
    features = maps(64, 96)
    changed = [features[0] + torch.eye(24)[:16], *features[1:]]
    with torch.no_grad():
        before, after = module(features)[3], module(changed)[3]
    assert (after - before).abs().max() > 1e-5
