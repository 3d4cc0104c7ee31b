"""Networks of every kind through the export, at sizes that the export has not seen."""

import numpy as np
import pytest
from models_for_tests import QUICK_NETWORKS, SLOW_NETWORKS

torch = pytest.importorskip('torch')
onnxruntime = pytest.importorskip('onnxruntime')

from lwseg_ros.inference.graph import ImageToLabels, given_outputs  # noqa: E402
from lwseg_ros.inference.model_file import read_model_info  # noqa: E402
from lwseg_ros.networks import list_networks  # noqa: E402

OTHERS = [name for name in list_networks() if name not in (*QUICK_NETWORKS, *SLOW_NETWORKS)]
EVERY = [
    *QUICK_NETWORKS,
    *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW_NETWORKS),
    *(pytest.param(name, marks=pytest.mark.nightly) for name in OTHERS),
]
# Pyramid pooling, which is for comparison only, cannot be exported for other sizes.
AT_ANY_SIZE = [entry for entry in EVERY if '_ppm_' not in str(entry)]


@pytest.mark.parametrize('name', AT_ANY_SIZE)
def test_exported_graph_agrees_with_the_network(name, exported_network):
    network, path = exported_network(name)
    info = read_model_info(path)
    classes = info.label_space.num_classes
    session = onnxruntime.InferenceSession(str(path), providers=['CPUExecutionProvider'])
    further = given_outputs(network)
    assert info.measures == further[1:]
    graph = ImageToLabels(network, info.mean, info.std, further=further).eval()
    drivable = torch.zeros(classes)
    drivable[3] = 1
    for shape in ((1, 64, 96, 3), (2, 45, 75, 3)):
        image = torch.randint(0, 256, shape, dtype=torch.uint8)
        with torch.inference_mode():
            wanted = graph(image, drivable)
        given = session.run(None, {'image': image.numpy(), 'drivable_classes': drivable.numpy()})
        assert len(np.unique(given[0])) > 1
        assert (given[0] == wanted[0].numpy()).mean() > 0.999
        for ours, theirs in zip(given[1:3], wanted[1:3], strict=True):
            same = given[0] == wanted[0].numpy()
            assert np.abs(ours.astype(int) - theirs.numpy())[same].max() <= 1
        assert len(given) == 3 + len(further)
        for ours, theirs in zip(given[3:], wanted[3:], strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize('name', EVERY)
def test_every_network_becomes_an_engine(name, exported_network):
    trt = pytest.importorskip('tensorrt_rtx', reason='TensorRT for RTX is for x86-64 only')
    from lwseg_ros.inference.backends.cuda import Gpu
    from lwseg_ros.inference.backends.tensorrt_engine import EngineKey, build_engine

    _, path = exported_network(name)
    graph, ampere = path.read_bytes(), Gpu('some GPU', (8, 6))
    exact, half = (
        build_engine(trt, graph, EngineKey.of(trt, graph, ampere, p, (1, 192, 256, 3)), name)
        for p in ('fp32', 'fp16')
    )
    assert 0 < len(half) < 0.75 * len(exact)
