"""Logits among pixels: what is interpolated at some places is what all of it would be there."""

import pytest

torch = pytest.importorskip('torch')

from torch.nn import functional as F  # noqa: E402

from lwseg_ros.training.positions import interpolated  # noqa: E402


@pytest.mark.parametrize('centred', [False, True])
@pytest.mark.parametrize(
    ('size', 'logits'), [((64, 96), (16, 24)), ((65, 97), (17, 25)), ((101, 75), (26, 19))]
)
def test_interpolated_is_a_part_of_the_enlarged_logits_with_its_gradient(size, logits, centred):
    torch.manual_seed(0)
    planes = torch.randn(2, 5, *logits, dtype=torch.float64, requires_grad=True)
    enlarged = F.interpolate(planes, size=size, mode='bilinear', align_corners=not centred)
    for row, column in ((0, 0), (1, 0), (0, 1)):
        places = [
            torch.arange(first, pixels, 2, dtype=torch.float64)
            for first, pixels in zip((row, column), size, strict=True)
        ]
        given = interpolated(planes, places, size, centred)
        wanted = enlarged[:, :, row::2, column::2]
        torch.testing.assert_close(given, wanted)
        seen = torch.randn_like(wanted)
        gradients = [
            torch.autograd.grad((x * seen).sum(), planes, retain_graph=True)[0]
            for x in (given, wanted)
        ]
        torch.testing.assert_close(*gradients)
