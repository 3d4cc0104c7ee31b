"""Weights from the containers that the authors and others save; a wrong one is an error."""

import pytest

torch = pytest.importorskip('torch')

from safetensors.torch import save_file  # noqa: E402

from lwseg_ros.errors import ModelError  # noqa: E402
from lwseg_ros.networks import create_network  # noqa: E402
from lwseg_ros.training.checkpoint_import import (  # noqa: E402
    encoder_keys,
    load_encoder_weights,
    load_weights,
)

NETWORK = 'lw_refinenet_mobilenet_v2'


@pytest.fixture(scope='module')
def trained():
    torch.manual_seed(1)
    return create_network(NETWORK, 7).state_dict()


def without_batch_counts(state):
    return {k: v for k, v in state.items() if not k.endswith('num_batches_tracked')}


CONTAINERS = {
    'bare': lambda state: state,
    'before torch 0.4.1': without_batch_counts,
    'segmenter with module prefix': lambda state: {
        'segmenter': {f'module.{k}': v for k, v in state.items()},
        'epoch_start': 3,
    },
    'model': lambda state: {'model': state, 'epoch': 1},
    'state_dict': lambda state: {'state_dict': state, 'best_val': 0.5},
}


@pytest.mark.parametrize('container', CONTAINERS)
def test_every_container_loads_every_weight(container, trained, tmp_path):
    path = tmp_path / 'checkpoint.pth'
    torch.save(CONTAINERS[container](trained), path)
    network = create_network(NETWORK, 7)
    load_weights(network, path)
    for key, value in without_batch_counts(network.state_dict()).items():
        assert torch.equal(value, trained[key]), key


def load_error(content, tmp_path, num_classes=7):
    path = tmp_path / 'wrong.pth'
    torch.save(content, path)
    network = create_network(NETWORK, num_classes)
    before = {k: v.clone() for k, v in network.state_dict().items()}
    with pytest.raises(ModelError) as error:
        load_weights(network, path)
    for key, value in network.state_dict().items():
        assert torch.equal(value, before[key]), f'{key} was changed by a refused load'
    assert '\n' not in str(error.value)
    return str(error.value)


def test_nothing_matching_is_an_error(tmp_path):
    assert 'lacks' in load_error({'model': {'a': torch.ones(1)}}, tmp_path)


def test_one_missing_weight_is_named(trained, tmp_path):
    state = {k: v for k, v in trained.items() if k != 'conv5.weight'}
    assert 'conv5.weight' in load_error(state, tmp_path)


def test_another_network_is_an_error(trained, tmp_path):
    state = {**trained, 'layer9.0.weight': torch.ones(1)}
    assert 'layer9.0.weight' in load_error(state, tmp_path)


def test_another_class_count_is_named(trained, tmp_path):
    assert 'segm.bias is [7], the network wants [21]' in load_error(trained, tmp_path, 21)


def test_no_weights_at_all(tmp_path):
    assert 'holds no weights' in load_error({'epoch': 3}, tmp_path)


class Surprise:
    def __reduce__(self):
        return (print, ('this must never run',))


def test_a_checkpoint_with_code_is_refused(tmp_path, capfd):
    assert 'more than weights' in load_error({'model': Surprise()}, tmp_path)
    assert 'never run' not in capfd.readouterr().out


@pytest.mark.parametrize('name', ['absent.pth', 'garbage.pth', 'garbage.safetensors'])
def test_unreadable_files(name, tmp_path):
    path = tmp_path / name
    if name != 'absent.pth':
        path.write_bytes(b'\x07not a checkpoint' * 9)
    with pytest.raises(ModelError, match='checkpoint') as error:
        load_weights(create_network(NETWORK, 7), path)
    assert '\n' not in str(error.value)


def torchvision_keys(state):
    """Name an encoder's weights as torchvision does, written independently of the import."""
    blocks = [1, 2, 3, 4, 3, 3, 1]
    names = {}
    feature = 1
    for stage, count in enumerate(blocks, start=2):
        for block in range(count):
            names[f'layer{stage}.{block}.'] = f'features.{feature}.'
            feature += 1
    renamed = {}
    for key, value in state.items():
        if key.startswith('layer1.'):
            renamed['features.0.' + key[len('layer1.') :]] = value
        for ours, theirs in names.items():
            if not key.startswith(ours + 'output.'):
                continue
            part, index, leaf = key[len(ours + 'output.') :].split('.', 2)
            hidden = 1 if ours == 'layer2.0.' else 2
            if int(part) < hidden:
                renamed[f'{theirs}conv.{part}.{index}.{leaf}'] = value
            else:
                renamed[f'{theirs}conv.{hidden + int(index)}.{leaf}'] = value
    return renamed


def test_torchvision_imagenet_weights_fill_the_encoder(tmp_path):
    source = create_network('lw_refinenet_mobilenet_v2_torchvision', 7)
    state = torchvision_keys(
        {k: v for k, v in source.state_dict().items() if k in encoder_keys(source)}
    )
    assert state['features.1.conv.1.weight'].shape == (16, 32, 1, 1)
    assert state['features.17.conv.2.weight'].shape == (320, 960, 1, 1)
    state['classifier.1.weight'] = torch.ones(1000, 1280)
    path = tmp_path / 'imagenet.safetensors'
    save_file(state, path)
    network = create_network('lw_refinenet_mobilenet_v2_torchvision', 7)
    load_encoder_weights(network, path)
    for key in encoder_keys(source):
        assert torch.equal(network.state_dict()[key], source.state_dict()[key]), key


def test_the_authors_encoder_form_does_not_take_torchvision_weights(tmp_path):
    source = create_network('lw_refinenet_mobilenet_v2_torchvision', 7)
    path = tmp_path / 'imagenet.safetensors'
    save_file(torchvision_keys(source.state_dict()), path)
    with pytest.raises(ModelError, match='lacks'):
        load_encoder_weights(create_network(NETWORK, 7), path)


def test_resnet_encoder_weights_leave_the_decoder_alone(tmp_path):
    source = create_network('lw_refinenet_resnet50', 7)
    state = {k: source.state_dict()[k] for k in encoder_keys(source)}
    state['fc.weight'] = torch.ones(1000, 2048)
    path = tmp_path / 'imagenet.pth'
    torch.save(state, path)
    network = create_network('lw_refinenet_resnet50', 7)
    decoder = network.clf_conv.weight.clone()
    load_encoder_weights(network, path)
    assert torch.equal(network.layer4[2].conv3.weight, source.layer4[2].conv3.weight)
    assert torch.equal(network.clf_conv.weight, decoder)


@pytest.mark.parametrize('name', ['fpn_mobilenet_v2_compact', 'frm_top_van_b0_compact'])
def test_the_encoder_of_a_pyramid_is_its_backbone(name):
    with torch.device('meta'):
        network = create_network(name, 7)
    assert encoder_keys(network) == {f'backbone.{k}' for k in network.backbone.state_dict()}


def filled_from(state, name, tmp_path):
    """Return network `name` with the encoder of `state`; nothing else of it may change."""
    path = tmp_path / 'imagenet.pth'
    torch.save(state, path)
    network = create_network(name, 7)
    before = {k: v.clone() for k, v in network.state_dict().items()}
    load_encoder_weights(network, path)
    for key, value in network.state_dict().items():
        assert key in encoder_keys(network) or torch.equal(value, before[key]), key
    return network


def test_van_public_weights_fill_the_backbone(tmp_path):
    source = create_network('fpn_van_b0_compact', 7).backbone.state_dict()
    public = {f'module.{k}': v for k, v in source.items()}
    public |= {'module.head.weight': torch.ones(1000, 256), 'module.head.bias': torch.ones(1000)}
    content = {'state_dict': public, 'epoch': 300}
    network = filled_from(content, 'frm_split_van_b0_compact', tmp_path)
    for key, value in source.items():
        assert torch.equal(network.backbone.state_dict()[key], value), key


def test_van_weights_of_another_size_are_refused(tmp_path):
    source = create_network('fpn_van_b0_compact', 7).backbone.state_dict()
    with pytest.raises(ModelError, match='lacks|network wants'):
        filled_from(source, 'fpn_van_b1', tmp_path)


def test_torchvision_resnet_weights_fill_the_backbone(tmp_path):
    source = create_network('lw_refinenet_resnet50', 7)
    state = {k: source.state_dict()[k] for k in encoder_keys(source)}
    state |= {'fc.weight': torch.ones(1000, 2048), 'fc.bias': torch.ones(1000)}
    network = filled_from(state, 'fpn_resnet50', tmp_path)
    for key in encoder_keys(source):
        assert torch.equal(network.backbone.state_dict()[key], source.state_dict()[key]), key


def test_torchvision_mobilenet_weights_fill_the_backbone(tmp_path):
    source = create_network('lw_refinenet_mobilenet_v2_torchvision', 7)
    state = torchvision_keys(source.state_dict())
    network = filled_from(state, 'frm_top_mobilenet_v2_compact', tmp_path)
    for key in encoder_keys(source):
        assert torch.equal(network.backbone.state_dict()[key], source.state_dict()[key]), key


def test_the_small_network_takes_the_imagenet_weights_of_what_it_kept(tmp_path):
    source = create_network('lw_refinenet_mobilenet_v2_torchvision', 7).state_dict()
    network = filled_from(torchvision_keys(source), 'lw_refinenet_mobilenet_v2_nano', tmp_path)
    kept = encoder_keys(network)
    assert 'layer7.0.output.2.0.weight' in kept
    assert not any(key.startswith(('layer7.1.', 'layer8.')) for key in kept)
    for key in kept:
        assert torch.equal(network.state_dict()[key], source[key]), key
