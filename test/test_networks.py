"""Every network of the catalog: counts, odd sizes, save and load, export."""

from pathlib import Path

import pytest

torch = pytest.importorskip('torch')

from torch import nn  # noqa: E402

from lwseg_ros.errors import ModelError  # noqa: E402
from lwseg_ros.networks import create_network, list_networks  # noqa: E402

REFERENCE = Path(__file__).resolve().parents[2] / 'shared' / 'reference' / 'checkpoint_keys'


def parameters(network):
    return sum(p.numel() for p in network.parameters())


def multiply_adds(network, height, width):
    """Count the multiply-adds of all convolutions by their output sizes."""
    total = 0

    def count(module, _inputs, output):
        nonlocal total
        kernel = module.kernel_size[0] * module.kernel_size[1]
        total += output[0].numel() * kernel * module.in_channels // module.groups

    hooks = [m.register_forward_hook(count) for m in network.modules() if isinstance(m, nn.Conv2d)]
    network.to('meta').eval()(torch.zeros(1, 3, height, width, device='meta'))
    for hook in hooks:
        hook.remove()
    return total


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


class TestResNet152(NetworkContract):
    name = 'lw_refinenet_resnet152'


class TestMobileNetV2(NetworkContract):
    name = 'lw_refinenet_mobilenet_v2'


class TestMobileNetV2Torchvision(NetworkContract):
    name = 'lw_refinenet_mobilenet_v2_torchvision'


class TestJoint(NetworkContract):
    name = 'lw_refinenet_mobilenet_v2_joint'

    def _trained(self, name):
        return not name.startswith(('depth.', 'pre_depth.'))

    def test_all_tasks_at_a_quarter(self, network):
        with torch.inference_mode():
            outputs = network.predict_all(torch.zeros(1, 3, 64, 96))
            logits = network(torch.zeros(1, 3, 64, 96))
        shapes = {task: tuple(output.shape) for task, output in outputs.items()}
        channels = {'segm': 5, 'depth': 1, 'normal': 3}
        assert shapes == {task: (1, channels[task], 16, 24) for task in network.tasks}
        torch.testing.assert_close(outputs['segm'], logits)


class TestJointNormals(TestJoint):
    name = 'lw_refinenet_mobilenet_v2_joint_normals'

    def _trained(self, name):
        return super()._trained(name) and not name.startswith(('normal.', 'pre_normal.'))


def test_every_network_of_the_catalog_is_under_contract():
    assert {c.name for c in _all(NetworkContract)} == set(list_networks())


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
    assert multiply_adds(network, 512, 512) / 1e9 == pytest.approx(giga, rel=0.01)


@pytest.mark.parametrize(
    ('name', 'giga'),
    [('lw_refinenet_resnet50', 255.8), ('lw_refinenet_mobilenet_v2', 68.7)],
)
def test_multiply_adds_at_1024_by_2048(name, giga):
    with torch.device('meta'):
        network = create_network(name, 21)
    assert multiply_adds(network, 1024, 2048) / 1e9 == pytest.approx(giga, rel=0.01)


@pytest.mark.skipif(not REFERENCE.is_dir(), reason='no reference key lists beside the checkout')
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
    lines = (REFERENCE / f'{listing}.txt').read_text().splitlines()
    wanted = dict(line.split(' ', 1) for line in lines)
    with torch.device('meta'):
        state = create_network(name, num_classes).state_dict()
    assert {key: str(list(value.shape)) for key, value in state.items()} == wanted


def test_unknown_network_lists_the_known_ones():
    with pytest.raises(ModelError, match='lw_refinenet_mobilenet_v2'):
        create_network('refinenet', 21)
    assert set(list_networks()) >= {name for name, _, _ in COUNTS}
