"""The `lwseg` command as a user runs it: a process, its exit status, its output."""

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from lwseg_ros import __version__
from lwseg_ros.label_space import LabelSpace

ROAD, SKY = 3, 0


def lwseg(*arguments):
    return subprocess.run(
        [sys.executable, '-m', 'lwseg_ros.cli', *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        # Without what makes tables as narrow as the terminal, or as readline takes it to be.
        env={name: value for name, value in os.environ.items() if name != 'COLUMNS'},
    )


def refused(*arguments):
    """Run a command that must fail; return its one sentence."""
    done = lwseg(*arguments)
    assert done.returncode == 1, done.stderr
    assert 'Traceback' not in done.stderr
    (sentence,) = done.stderr.strip().splitlines()
    return sentence


@pytest.fixture
def painted(tmp_path):
    """CamVid's layout with one image in the colours that the tiny model labels exactly."""
    labels = np.full((96, 128), SKY, np.uint8)
    labels[48:] = ROAD
    image = LabelSpace.load('camvid').palette[labels]
    for part in ('images', 'labels'):
        (tmp_path / 'camvid' / part / 'val').mkdir(parents=True)
    cv2.imwrite(str(tmp_path / 'camvid/images/val/one.png'), image[..., ::-1])
    cv2.imwrite(str(tmp_path / 'camvid/labels/val/one.png'), labels)
    return tmp_path


def test_info_prints_what_the_file_says(tiny_model):
    done = lwseg('info', tiny_model)
    assert done.returncode == 0, done.stderr
    about = json.loads(done.stdout)
    assert about['name'] == 'tiny'
    assert about['input_size'] == [96, 128]
    assert [c['name'] for c in about['label_space']['classes']][ROAD] == 'road'


def test_missing_truncated_and_foreign_models_are_one_sentence(tiny_model, tmp_path):
    assert 'there is no model' in refused('info', tmp_path / 'absent.onnx')
    short = tmp_path / 'short.onnx'
    short.write_bytes(tiny_model.read_bytes()[:-100])
    assert 'truncated' in refused('info', short)
    archive = tmp_path / 'weights.pth'
    archive.write_bytes(b'PK\x03\x04' + bytes(64))
    assert 'PyTorch checkpoint' in refused('segment', tmp_path, '--model', archive, '--out', 'x')


def test_evaluate_writes_the_figures(tiny_model, painted):
    out = painted / 'figures.json'
    data = ('--data', 'camvid:camvid', '--split', 'val', '--data-root', painted)
    done = lwseg('evaluate', tiny_model, *data, '--json', out)
    assert done.returncode == 0, done.stderr
    figures = json.loads(out.read_text())
    assert figures['miou'] > 0.98
    assert figures['drivable_iou'] > 0.98
    assert set(figures['iou']) == {'sky', 'road'}
    assert 'drivable_iou' in done.stdout
    assert 'no folder' in refused(
        'evaluate', tiny_model, '--data', 'camvid:else', '--split', 'val', '--json', out
    )


def test_segment_writes_labels_and_an_overlay(tiny_model, painted, tmp_path):
    out = tmp_path / 'out'
    image = painted / 'camvid/images/val/one.png'
    done = lwseg('segment', image, '--model', tiny_model, '--out', out, '--drivable')
    assert done.returncode == 0, done.stderr
    labels = cv2.imread(str(out / 'one.png'), cv2.IMREAD_UNCHANGED)
    assert (labels[:40] == SKY).all()
    assert (labels[56:] == ROAD).all()
    drivable = cv2.imread(str(out / 'one_drivable.png'), cv2.IMREAD_UNCHANGED)
    assert set(np.unique(drivable)) == {0, 255}
    assert cv2.imread(str(out / 'one_overlay.jpg')).shape == (96, 128, 3)


def test_unreadable_image_leaves_nothing_behind(tiny_model, tmp_path):
    broken = tmp_path / 'broken.jpg'
    broken.write_bytes(b'\xff\xd8\xff no image')
    out = tmp_path / 'out'
    assert 'broken.jpg' in refused('segment', broken, '--model', tiny_model, '--out', out)
    assert not [p for p in out.rglob('*') if p.is_file() and p.suffix != '.json']


def authors_checkpoint(folder, name='lw_refinenet_mobilenet_v2'):
    """Write a checkpoint as the authors' release has them; return what makes a model of it."""
    torch = pytest.importorskip('torch')
    from lwseg_ros.networks import create_network

    torch.manual_seed(0)
    network = create_network(name, 7).eval()
    checkpoint, out = folder / 'mbv2.pth', folder / 'parts.onnx'
    torch.save(
        {'segmenter': {f'module.{k}': v for k, v in network.state_dict().items()}}, checkpoint
    )
    return out, ('export', checkpoint, '--out', out, '--network', name)


def test_a_checkpoint_of_other_classes_is_refused(tmp_path):
    out, export = authors_checkpoint(tmp_path)
    assert 'segm.bias is [7]' in refused(*export, '--label-space', 'voc')
    assert not out.exists()


@pytest.mark.slow
def test_the_authors_checkpoint_becomes_a_model(tmp_path):
    from lwseg_ros import Segmenter

    out, export = authors_checkpoint(tmp_path)
    done = lwseg(*export, '--label-space', 'person_part', '--input-size', '96x64')
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)['label_agreement'] >= 0.995
    with Segmenter.load(out) as segmenter:
        assert segmenter.label_space.name == 'person_part'
        assert segmenter.input_size == (64, 96)


@pytest.mark.slow
def test_the_authors_joint_checkpoint_becomes_a_model_with_depth(tmp_path):
    from lwseg_ros import Segmenter

    out, export = authors_checkpoint(tmp_path, 'lw_refinenet_mobilenet_v2_joint')
    done = lwseg(*export, '--label-space', 'person_part', '--input-size', '96x64')
    assert done.returncode == 0, done.stderr
    with Segmenter.load(out, depth=True) as segmenter:
        assert segmenter.info.measures == ('depth',)
        assert segmenter(np.zeros((64, 96, 3), np.uint8)).depth.shape == (64, 96)


def test_wrong_recipe_is_one_sentence(tmp_path):
    pytest.importorskip('torch')
    recipe = tmp_path / 'recipe.yaml'
    recipe.write_text('name: nothing\n')
    assert 'lacks' in refused('train', recipe, '--out', tmp_path / 'run')
    assert not (tmp_path / 'run').exists()


def test_no_command_shows_the_commands():
    assert 'evaluate' in lwseg('--help').stdout


def test_a_node_that_cannot_start_fails():
    pytest.importorskip('rclpy')
    assert "no model '/no/model.onnx'" in refused(
        'node', '--ros-args', '-p', 'model.path:=/no/model.onnx'
    )


def test_help_of_the_node_starts_none():
    done = lwseg('node', '--help')
    assert done.returncode == 0
    assert '--ros-args' in done.stdout


def test_tables_that_are_written_to_a_file_are_whole(tmp_path):
    from lwseg_ros.benchmark.report import FORMAT

    row = {
        **{'model': 'a_model_of_a_rather_long_name', 'backend': 'onnxruntime'},
        **{'precision': 'auto', 'size': '1025x769', 'engine_ms': {'p50': 12.5}},
    }
    for name in ('before.json', 'after.json'):
        result = {'format': FORMAT, 'environment': {'machine': {}}, 'engines': [row]}
        (tmp_path / name).write_text(json.dumps(result))
    done = lwseg('benchmark', '--compare', tmp_path / 'before.json', tmp_path / 'after.json')
    assert done.returncode == 0, done.stderr
    assert 'a_model_of_a_rather_long_name onnxruntime auto 1025x769' in done.stdout


def test_version():
    done = lwseg('--version')
    assert (done.returncode, done.stdout) == (0, f'lwseg {__version__}\n')


@pytest.mark.parametrize(
    ('given', 'meant'), [(('segmnt',), 'segment'), (('bag', 'evalate'), 'evaluate')]
)
def test_unknown_commands_suggest_the_near_one(given, meant):
    done = lwseg(*given)
    assert done.returncode == 2
    assert f"No such command '{given[-1]}'. Did you mean '{meant}'?" in done.stderr


def test_completion_is_installed_and_completes_commands_and_models(tmp_path):
    home = {**os.environ, 'HOME': str(tmp_path)}
    command = Path(sys.executable).with_name('lwseg')
    # The shell that asks is the one that is completed for; `exit` keeps it from being replaced.
    shell = ['bash', '-c', f'{command} --install-completion; exit $?']
    done = subprocess.run(shell, env=home, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert 'bash completion installed' in done.stdout
    assert (tmp_path / '.bashrc').read_text()

    def completed(*words):
        asked = {
            **home,
            '_LWSEG_COMPLETE': 'complete_bash',
            'COMP_WORDS': ' '.join(('lwseg', *words)),
            'COMP_CWORD': str(len(words)),
        }
        done = subprocess.run([command], env=asked, capture_output=True, text=True, timeout=60)
        return done.stdout.split()

    assert completed('seg') == ['segment']
    assert 'road-nano' in completed('info', 'road-n')
