"""The fields of the points of a sensor_msgs/PointCloud2."""

from __future__ import annotations

from dataclasses import dataclass

DATATYPES = {1: 'i1', 2: 'u1', 3: 'i2', 4: 'u2', 5: 'i4', 6: 'u4', 7: 'f4', 8: 'f8'}
"""sensor_msgs/PointField's kinds of numbers."""

UINT8, FLOAT32 = 2, 7


@dataclass(frozen=True)
class Field:
    """A field of a point, as sensor_msgs/PointField has it."""

    name: str
    offset: int
    datatype: int
    count: int = 1
