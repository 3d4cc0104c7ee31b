"""Networks of every kind through the export, at sizes that the export has not seen."""

import numpy as np
import pytest
from models_for_tests import QUICK_NETWORKS, SLOW_NETWORKS

torch = pytest.importorskip('torch')
onnxruntime = pytest.importorskip('onnxruntime')

from lwseg_ros.inference.graph import ImageToLabels  # noqa: E402
from lwseg_ros.inference.model_file import read_model_info  # noqa: E402


@pytest.mark.parametrize(
    'name',
    [*QUICK_NETWORKS, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW_NETWORKS)],
)
def test_exported_graph_agrees_with_the_network(name, exported_network):
    network, path = exported_network(name)
    info = read_model_info(path)
    classes = info.label_space.num_classes
    session = onnxruntime.InferenceSession(str(path), providers=['CPUExecutionProvider'])
    graph = ImageToLabels(network, info.mean, info.std).eval()
    drivable = torch.zeros(classes)
    drivable[3] = 1
    for shape in ((1, 64, 96, 3), (2, 45, 75, 3)):
        image = torch.randint(0, 256, shape, dtype=torch.uint8)
        with torch.inference_mode():
            wanted = graph(image, drivable)
        given = session.run(None, {'image': image.numpy(), 'drivable_classes': drivable.numpy()})
        assert len(np.unique(given[0])) > 1
        assert (given[0] == wanted[0].numpy()).mean() > 0.999
        for ours, theirs in zip(given[1:], wanted[1:], strict=True):
            same = given[0] == wanted[0].numpy()
            assert np.abs(ours.astype(int) - theirs.numpy())[same].max() <= 1
