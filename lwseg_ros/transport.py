"""Let camera images cross between processes: Fast DDS's defaults lose most of them.

Must run before the first ROS context is made. Imports no ROS package.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, MutableMapping

from lwseg_ros.share import config_file

PROFILE_VARIABLES = ('FASTRTPS_DEFAULT_PROFILES_FILE', 'FASTDDS_DEFAULT_PROFILES_FILE')
"""Where Fast DDS 2 (Humble, Jazzy) and Fast DDS 3 (Kilted and later) look for their profile."""

_ROOMY_SHARED_MEMORY = 256 << 20


def apply_large_image_profile(env: MutableMapping[str, str]) -> bool:
    """Point Fast DDS at the shipped shared-memory profile, by variables of `env`.

    Does nothing if another RMW is chosen or the user has set a profile or built-in transports of
    their own. Returns whether the shipped profile is in force.
    """
    if not _is_fast_dds(env):
        return False
    profile = str(large_image_profile())
    users_own = [env[name] for name in PROFILE_VARIABLES if env.get(name)]
    if users_own or env.get('FASTDDS_BUILTIN_TRANSPORTS'):
        return profile in users_own
    for name in PROFILE_VARIABLES:
        env[name] = profile
    return True


def large_image_profile() -> os.PathLike[str]:
    """Return the shipped profile that fits this host's shared memory."""
    try:
        shared_memory = os.statvfs('/dev/shm')
        roomy = shared_memory.f_frsize * shared_memory.f_blocks >= _ROOMY_SHARED_MEMORY
    except OSError:
        roomy = True
    return config_file('fastdds_large_images.xml' if roomy else 'fastdds_container.xml')


def large_image_remedy() -> str:
    """Return what helps when images go lost between processes, as the end of a sentence."""
    if not _is_fast_dds(os.environ):
        return "give the middleware's receive buffers more room, as its tuning guide says"
    return (
        'images larger than the shared memory of the Fast DDS that sends them get lost; start '
        f'the camera, too, with {" and ".join(PROFILE_VARIABLES)} = {large_image_profile()}'
    )


def _is_fast_dds(env: Mapping[str, str]) -> bool:
    return 'fastrtps' in env.get('RMW_IMPLEMENTATION', 'rmw_fastrtps_cpp')
