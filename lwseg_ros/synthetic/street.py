"""A generated street, drawn from one generator: the same seed gives the same street."""

from __future__ import annotations

import numpy as np

from lwseg_ros.synthetic.ground import ground_picture
from lwseg_ros.synthetic.layout import KINDS, draw_layout
from lwseg_ros.synthetic.paving import Paving
from lwseg_ros.synthetic.roadside import Roadside
from lwseg_ros.synthetic.scene import Scene
from lwseg_ros.synthetic.shadows import Shadows
from lwseg_ros.synthetic.sky import sky, skyline
from lwseg_ros.synthetic.traffic import Traffic


def build_scene(rng: np.random.Generator, kind: str | None = None) -> Scene:
    """Lay out a street of the kind (one of `KINDS`; by default the generator chooses)."""
    layout = draw_layout(rng, kind or str(rng.choice(KINDS, p=[0.42, 0.24, 0.18, 0.16])))
    paving = Paving(rng, layout)
    paving.pave()
    shadows = Shadows(rng, layout)
    roadside = Roadside(rng, layout, paving, shadows)
    roadside.furnish()
    traffic = Traffic(rng, layout, paving)
    traffic.populate()
    light = shadows.light(roadside.tunnels)
    ground = ground_picture(rng, layout, paving.material, light)
    far = skyline(rng, layout.kind == 'city')
    return Scene(
        layout,
        paving.material,
        ground,
        sky(rng, layout.mood),
        far,
        [*roadside.items, *traffic.parked],
        traffic.movers,
        roadside.tunnels,
    )
