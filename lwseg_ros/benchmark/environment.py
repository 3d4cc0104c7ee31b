"""What every figure depends on: machine, libraries, transport."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

from lwseg_ros import __version__
from lwseg_ros.transport import PROFILE_VARIABLES

LIBRARIES = ('openvino', 'onnxruntime', 'torch', 'numpy', 'opencv-python-headless', 'rclpy')
CPU_FLAGS = (
    *('avx2', 'avx_vnni', 'avx512f', 'avx512_vnni', 'avx512_bf16', 'avx512_fp16'),
    *('amx_bf16', 'amx_int8', 'asimddp', 'i8mm', 'bf16'),
)


def environment() -> dict[str, Any]:
    """Return the machine, the versions, the middleware and how busy the machine is, JSON-able."""
    cpu = _cpu()
    return {
        'machine': {
            'processor': cpu.get('model name', platform.processor() or platform.machine()),
            'architecture': platform.machine(),
            'cores': len(os.sched_getaffinity(0)),
            'flags': [
                f for f in CPU_FLAGS if f in cpu.get('flags', cpu.get('Features', '')).split()
            ],
            'memory_gb': round(os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 1e9, 1),
            'virtual': 'hypervisor' in cpu.get('flags', '').split(),
            'board': _text(Path('/proc/device-tree/model')),
            'kernel': platform.release(),
        },
        'load_before': round(os.getloadavg()[0], 2),
        'versions': {
            'lwseg': __version__,
            'python': platform.python_version(),
            **{name: version for name in LIBRARIES if (version := _version(name))},
        },
        'middleware': {
            'rmw': os.environ.get('RMW_IMPLEMENTATION', 'rmw_fastrtps_cpp'),
            'profile': Path(os.environ.get(PROFILE_VARIABLES[0], '')).name or 'default',
        },
    }


def _cpu() -> dict[str, str]:
    """Return what Linux says of the first core."""
    lines = _text(Path('/proc/cpuinfo')).split('\n\n')[0].splitlines()
    return {
        key.strip(): value.strip() for key, _, value in (line.partition(':') for line in lines)
    }


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding='utf-8', errors='replace').strip('\0\n')
    except OSError:
        return ''


def _version(name: str) -> str:
    for distribution in (name, f'ros-{name}'):
        try:
            return metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
    return ''
