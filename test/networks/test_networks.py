"""Every network of the catalog: counts, odd sizes, save and load, export."""

import copy

import pytest
from paths_for_tests import shared

torch = pytest.importorskip('torch')

from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

from lwseg_ros.errors import ModelError  # noqa: E402
from lwseg_ros.networks import create_network, list_networks  # noqa: E402


def parameters(network):
    return sum(p.numel() for p in network.parameters())


def multiply_adds(network, height, width):
    """Return the billions of multiply-adds of convolutions and matrix products, by module."""
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        network.to('meta').eval()(torch.zeros(1, 3, height, width, device='meta'))
    counts = counter.get_flop_counts()
    return {name.partition('.')[2] or 'whole': sum(c.values()) / 2e9 for name, c in counts.items()}


class NetworkContract:
    """What every network promises; a test class for a network sets `name`."""

    name = ''
    num_classes = 5

    @pytest.fixture(scope='class')
    @classmethod
    def network(cls):
        torch.manual_seed(0)
        return create_network(cls.name, cls.num_classes).eval()

    @pytest.mark.parametrize('size', [(32, 32), (33, 47), (65, 127), (96, 64), (100, 75)])
    def test_any_size_from_32_gives_logits_at_a_quarter(self, network, size):
        with torch.inference_mode():
            logits = network(torch.zeros(1, 3, *size))
        assert logits.shape == (1, self.num_classes, -(-size[0] // 4), -(-size[1] // 4))
        assert logits.isfinite().all()

    def test_logits_are_classified_from_decoded_features(self, network):
        image = torch.randn(1, 3, 40, 56)
        with torch.inference_mode():
            decoded = network.decode(network.encode(image))
            assert decoded.shape == (1, network.decoded_channels, 10, 14)
            torch.testing.assert_close(network.classify(decoded), network(image))

    def test_logits_come_from_the_encoders_maps(self, network):
        image = torch.randn(1, 3, 65, 97)
        with torch.inference_mode():
            maps = network.encode(image)
            torch.testing.assert_close(network.logits(maps), network(image))
        assert maps[-1].shape[-2:] == (3, 4)

    def test_simplified_gives_the_same_logits(self, network):
        simplified = copy.deepcopy(network)
        simplified.simplify()
        image = torch.randn(1, 3, 40, 57)
        with torch.inference_mode():
            torch.testing.assert_close(simplified(image), network(image), rtol=1e-3, atol=1e-4)

    def test_images_of_a_batch_do_not_touch_each_other(self, network):
        images = torch.randn(2, 3, 64, 48)
        with torch.inference_mode():
            together, alone = network(images), network(images[1:])
        torch.testing.assert_close(together[1:], alone, rtol=1e-4, atol=1e-4)

    def test_every_weight_gets_a_gradient(self):
        network = create_network(self.name, self.num_classes)
        network(torch.randn(2, 3, 64, 64)).square().mean().backward()
        without = [n for n, p in network.named_parameters() if p.grad is None and self._trained(n)]
        assert not without

    def _trained(self, name):
        return True

    def test_saved_weights_load_into_a_fresh_network(self, network, tmp_path):
        from safetensors.torch import save_file

        from lwseg_ros.training.checkpoint_import import load_weights

        path = tmp_path / 'weights.safetensors'
        save_file(network.state_dict(), path)
        other = create_network(self.name, self.num_classes).eval()
        load_weights(other, path)
        image = torch.randn(1, 3, 40, 56)
        with torch.inference_mode():
            torch.testing.assert_close(other(image), network(image), rtol=0, atol=0)

    def test_exported_graph_gives_the_same_logits(self, network):
        example = torch.randn(1, 3, 64, 96)
        program = torch.export.export(network, (example,), strict=False)
        with torch.inference_mode():
            torch.testing.assert_close(program.module()(example), network(example))


class TestResNet50(NetworkContract):
    name = 'lw_refinenet_resnet50'


class TestResNet101(NetworkContract):
    name = 'lw_refinenet_resnet101'

    @pytest.mark.slow  # the layers of ResNet-50, only more of them
    def test_exported_graph_gives_the_same_logits(self, network):
        super().test_exported_graph_gives_the_same_logits(network)


class TestResNet152(NetworkContract):
    name = 'lw_refinenet_resnet152'

    @pytest.mark.slow  # as above
    def test_exported_graph_gives_the_same_logits(self, network):
        super().test_exported_graph_gives_the_same_logits(network)


class TestMobileNetV2(NetworkContract):
    name = 'lw_refinenet_mobilenet_v2'


class TestMobileNetV2Torchvision(NetworkContract):
    name = 'lw_refinenet_mobilenet_v2_torchvision'


class TestJoint(NetworkContract):
    name = 'lw_refinenet_mobilenet_v2_joint'

    def _trained(self, name):
        return not name.startswith(('depth.', 'pre_depth.'))

    def test_all_that_it_measures_comes_at_a_quarter(self, network):
        image = torch.zeros(1, 3, 64, 96)
        with torch.inference_mode():
            logits, measured = network.predict_all(network.encode(image))
            torch.testing.assert_close(logits, network(image))
        shapes = {name: tuple(output.shape) for name, output in measured.items()}
        channels = {'depth': 1, 'normals': 3}
        assert shapes == {name: (1, channels[name], 16, 24) for name in network.measures}


class TestJointNormals(TestJoint):
    name = 'lw_refinenet_mobilenet_v2_joint_normals'

    def _trained(self, name):
        return super()._trained(name) and not name.startswith(('normal.', 'pre_normal.'))


class TestNano(NetworkContract):
    name = 'lw_refinenet_mobilenet_v2_nano'


class TestFeaturePyramid(NetworkContract):
    name = 'fpn_mobilenet_v2_compact'


class TestPyramidPooling(NetworkContract):
    name = 'fpn_ppm_mobilenet_v2_compact'


class TestAtrousSpatialPyramidPooling(NetworkContract):
    name = 'fpn_aspp_mobilenet_v2_compact'


class TestDisentangledNonLocal(NetworkContract):
    name = 'fpn_dnl_mobilenet_v2_compact'


class TestFeatureRefinementTop(NetworkContract):
    name = 'frm_top_mobilenet_v2_compact'


class TestFeatureRefinementSplit(NetworkContract):
    name = 'frm_split_van_b0_compact'


class TestEfficientViT(NetworkContract):
    name = 'lw_refinenet_efficientvit_b0'


class TestEfficientViTSeg(NetworkContract):
    name = 'efficientvit_seg_b0'


class TestFeatureRefinementEfficientViT(NetworkContract):
    name = 'frm_split_efficientvit_b0'


CONTEXTS = ('fpn', 'fpn_ppm', 'fpn_aspp', 'fpn_dnl', 'frm_top', 'frm_split')
BACKBONES = (
    *('efficientvit_b0', 'mobilenet_v2', 'van_b0', 'van_b1', 'van_b2', 'van_b3'),
    *('resnet50', 'resnet101', 'resnet152', 'mobilenet_v2_compact', 'van_b0_compact'),
)


WIDTHS = {f'lw_refinenet_efficientvit_b0_{width}' for width in (32, 48, 64, 128)}


def test_every_network_is_under_contract_or_differs_in_backbone_or_width_alone():
    under_contract = {c.name for c in _all(NetworkContract)}
    assert under_contract < set(list_networks())
    pyramids = {f'{context}_{backbone}' for context in CONTEXTS for backbone in BACKBONES}
    assert set(list_networks()) - under_contract < pyramids | WIDTHS
    for context in CONTEXTS:
        assert any(f'{context}_{backbone}' in under_contract for backbone in BACKBONES)


@pytest.mark.parametrize(
    ('context', 'backbone'),
    [
        pytest.param(
            context,
            backbone,
            marks=() if context == 'fpn' or 'compact' in backbone else pytest.mark.slow,
        )
        for context in CONTEXTS
        for backbone in BACKBONES
    ],
)
def test_every_backbone_takes_every_context(context, backbone):
    with torch.device('meta'):
        network = create_network(f'{context}_{backbone}', 5).eval()
        assert network(torch.zeros(1, 3, 65, 127)).shape == (1, 5, 17, 32)


def _all(contract):
    for child in contract.__subclasses__():
        yield child
        yield from _all(child)


COUNTS = [
    ('lw_refinenet_resnet50', 7, 27_325_255),
    ('lw_refinenet_resnet50', 19, 27_352_915),
    ('lw_refinenet_resnet50', 21, 27_357_525),
    ('lw_refinenet_resnet50', 40, 27_401_320),
    ('lw_refinenet_resnet50', 60, 27_447_420),
    ('lw_refinenet_resnet101', 21, 46_349_653),
    ('lw_refinenet_resnet152', 21, 61_993_301),
    ('lw_refinenet_mobilenet_v2', 19, 3_279_955),
    ('lw_refinenet_mobilenet_v2', 21, 3_284_565),
    ('lw_refinenet_mobilenet_v2', 40, 3_328_360),
    ('lw_refinenet_mobilenet_v2_torchvision', 21, 3_284_565 - 1_088),
    ('lw_refinenet_mobilenet_v2_joint', 6, 2_991_687),
    ('lw_refinenet_mobilenet_v2_joint', 40, 3_070_057),
    ('lw_refinenet_mobilenet_v2_joint_normals', 40, 3_077_228),
    ('lw_refinenet_mobilenet_v2_nano', 11, 806_027),
]


@pytest.mark.parametrize(('name', 'num_classes', 'count'), COUNTS)
def test_parameter_count(name, num_classes, count):
    with torch.device('meta'):
        assert parameters(create_network(name, num_classes)) == count


@pytest.mark.parametrize(
    ('name', 'giga'),
    [
        ('lw_refinenet_resnet50', 31.98),
        ('lw_refinenet_resnet101', 51.37),
        ('lw_refinenet_resnet152', 70.77),
        ('lw_refinenet_mobilenet_v2', 8.58),
    ],
)
def test_multiply_adds_at_512(name, giga):
    with torch.device('meta'):
        network = create_network(name, 21)
    assert multiply_adds(network, 512, 512)['whole'] == pytest.approx(giga, rel=0.01)


def test_simplified_costs_one_convolution_less():
    network = create_network('lw_refinenet_mobilenet_v2', 11)
    whole = multiply_adds(network, 512, 512)['whole']
    network = create_network('lw_refinenet_mobilenet_v2', 11)
    network.simplify()
    convolution, classifier = 256 * 256 * 128**2 / 1e9, 9 * 11 * 256 * 128**2 / 1e9
    saved = convolution - classifier
    assert multiply_adds(network, 512, 512)['whole'] == pytest.approx(whole - saved, rel=1e-6)


def test_simplified_never_costs_more():
    network = create_network('lw_refinenet_mobilenet_v2', 150)
    whole = multiply_adds(network, 512, 512)['whole']
    network.simplify()
    assert multiply_adds(network, 512, 512)['whole'] <= whole


@pytest.mark.parametrize(
    ('name', 'giga'),
    [('lw_refinenet_resnet50', 255.8), ('lw_refinenet_mobilenet_v2', 68.7)],
)
def test_multiply_adds_at_1024_by_2048(name, giga):
    with torch.device('meta'):
        network = create_network(name, 21)
    assert multiply_adds(network, 1024, 2048)['whole'] == pytest.approx(giga, rel=0.01)


@pytest.mark.parametrize(
    ('name', 'backbone', 'decoder', 'non_local', 'ffn', 'project'),
    [
        ('frm_top_van_b0', 36.11, 167.29, 6.44, 4.29, 0.27),
        ('frm_split_van_b0', 36.11, 167.29, 6.44, 4.29, 0.54),
        ('frm_split_van_b1', 104.27, 169.37, 17.18, 17.18, 2.15),
    ],
)
def test_multiply_adds_of_the_refined_pyramid(name, backbone, decoder, non_local, ffn, project):
    with torch.device('meta'):
        network = create_network(name, 19)
    giga = multiply_adds(network, 1024, 2048)
    assert giga['context.non_local'] == pytest.approx(non_local, abs=0.01)
    assert giga['context.expand'] + giga['context.reduce'] == pytest.approx(ffn, abs=0.01)
    assert giga['context.project'] == pytest.approx(project, abs=0.01)
    head = giga['pyramid'] + giga['head'] + giga['classifier']
    assert head == pytest.approx(decoder, abs=0.01)
    assert giga['whole'] - head - giga['context'] == pytest.approx(backbone, abs=0.01)


@pytest.mark.parametrize('name', ['frm_top_van_b0', 'frm_split_van_b0'])
def test_refined_pyramid_costs_what_the_paper_prints(name):
    with torch.device('meta'):
        network = create_network(name, 19)
    assert multiply_adds(network, 1024, 2048)['whole'] == pytest.approx(214.82, rel=0.01)


@pytest.mark.parametrize(
    ('name', 'num_classes', 'listing'),
    [
        ('lw_refinenet_resnet50', 21, 'rf_lw50_21'),
        ('lw_refinenet_resnet101', 21, 'rf_lw101_21'),
        ('lw_refinenet_resnet152', 21, 'rf_lw152_21'),
        ('lw_refinenet_mobilenet_v2', 21, 'mbv2_lw_21'),
        ('lw_refinenet_mobilenet_v2_joint', 40, 'multitask_40_2'),
        ('lw_refinenet_mobilenet_v2_joint', 46, 'multitask_46_2'),
        ('lw_refinenet_mobilenet_v2_joint', 6, 'multitask_6_2'),
        ('lw_refinenet_mobilenet_v2_joint_normals', 40, 'multitask_40_3'),
    ],
)
def test_checkpoint_keys_equal_the_authors(name, num_classes, listing):
    lines = shared(f'reference/checkpoint_keys/{listing}.txt').read_text().splitlines()
    wanted = dict(line.split(' ', 1) for line in lines)
    with torch.device('meta'):
        state = create_network(name, num_classes).state_dict()
    assert {key: str(list(value.shape)) for key, value in state.items()} == wanted


@pytest.mark.parametrize(
    'name',
    [
        *('lw_refinenet_mobilenet_v2_nano', 'fpn_mobilenet_v2_compact'),
        *('lw_refinenet_efficientvit_b0', 'efficientvit_seg_b0'),
        *('frm_top_van_b0_compact', 'frm_split_mobilenet_v2_compact'),
    ],
)
def test_bf16_autocast_in_channels_last_is_finite(name):
    torch.manual_seed(0)
    network = create_network(name, 5).to(memory_format=torch.channels_last)
    images = torch.randn(2, 3, 64, 96).to(memory_format=torch.channels_last)
    with torch.autocast('cpu', torch.bfloat16):
        loss = network(images).float().square().mean()
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad.isfinite().all() for p in network.parameters())


def test_unknown_network_lists_the_known_ones():
    with pytest.raises(ModelError, match='lw_refinenet_mobilenet_v2'):
        create_network('refinenet', 21)
    assert set(list_networks()) >= {name for name, _, _ in COUNTS}
