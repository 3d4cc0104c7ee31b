"""When the shipped Fast DDS profile is applied, and that the shipped profiles are sound."""

from __future__ import annotations

import os
from xml.etree import ElementTree

import pytest

from lwseg_ros.memory import keep_freed_memory
from lwseg_ros.share import config_file
from lwseg_ros.transport import (
    PROFILE_VARIABLES,
    apply_large_image_profile,
    large_image_profile,
    large_image_remedy,
)

OURS = str(large_image_profile())


@pytest.mark.parametrize('rmw', [None, 'rmw_fastrtps_cpp', 'rmw_fastrtps_dynamic_cpp'])
def test_profile_is_applied_to_fast_dds(rmw):
    env = {'RMW_IMPLEMENTATION': rmw} if rmw else {}
    assert apply_large_image_profile(env)
    assert {env[name] for name in PROFILE_VARIABLES} == {OURS}
    assert apply_large_image_profile(env), 'a second time, as in a launched process'


@pytest.mark.parametrize(
    'env',
    [
        {'RMW_IMPLEMENTATION': 'rmw_cyclonedds_cpp'},
        {'RMW_IMPLEMENTATION': 'rmw_zenoh_cpp'},
        {'FASTRTPS_DEFAULT_PROFILES_FILE': '/my/own.xml'},
        {'FASTDDS_DEFAULT_PROFILES_FILE': '/my/own.xml'},
        {'FASTDDS_BUILTIN_TRANSPORTS': 'LARGE_DATA'},
    ],
)
def test_the_users_own_choice_stays(env):
    before = dict(env)
    assert not apply_large_image_profile(env)
    assert env == before


@pytest.mark.parametrize(
    ('rmw', 'remedy'), [('rmw_fastrtps_cpp', OURS), ('rmw_cyclonedds_cpp', 'receive buffers')]
)
def test_the_remedy_is_that_of_the_middleware(monkeypatch, rmw, remedy):
    monkeypatch.setenv('RMW_IMPLEMENTATION', rmw)
    assert remedy in large_image_remedy()


@pytest.mark.parametrize(
    ('name', 'mebibytes'), [('fastdds_large_images.xml', 32), ('fastdds_container.xml', 8)]
)
def test_shipped_profiles_have_shared_memory_and_udp(name, mebibytes):
    space = '{http://www.eprosima.com/XMLSchemas/fastRTPS_Profiles}'
    profile = ElementTree.parse(config_file(name)).getroot()
    transports = {
        transport.findtext(f'{space}transport_id'): transport
        for transport in profile.iter(f'{space}transport_descriptor')
    }
    kinds = {t.findtext(f'{space}type'): t for t in transports.values()}
    assert set(kinds) == {'SHM', 'UDPv4'}
    assert kinds['SHM'].findtext(f'{space}segment_size') == str(mebibytes << 20)
    used = profile.find(f'.//{space}userTransports')
    assert {used_id.text for used_id in used} == set(transports)


@pytest.mark.parametrize(
    ('mebibytes', 'name'), [(64, 'fastdds_container.xml'), (8000, 'fastdds_large_images.xml')]
)
def test_profile_fits_the_shared_memory(monkeypatch, mebibytes, name):
    size = os.statvfs_result((4096, 4096, mebibytes * 256, 0, 0, 0, 0, 0, 0, 255))
    monkeypatch.setattr(os, 'statvfs', lambda _: size)
    assert large_image_profile() == config_file(name)


@pytest.mark.skipif(not hasattr(os, 'confstr'), reason='no C library to ask')
def test_malloc_takes_the_thresholds_on_glibc():
    assert keep_freed_memory() == os.confstr('CS_GNU_LIBC_VERSION').startswith('glibc')
