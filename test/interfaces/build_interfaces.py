"""Build the ROS interfaces that PyPI lacks, from their fields, with rosidl's own generators.

    python test/interfaces/build_interfaces.py

Each folder of `fields` is a package. What is built goes into the environment whose Python runs
this, as one extension module a package with links to it, and stays there; what is there already,
from a sourced ROS distribution for instance, is left alone. Without a compiler nothing is built,
and the tests that need these packages are skipped.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

FIELDS = Path(__file__).resolve().parent / 'fields'
PREFIX = Path(sys.prefix)
SITE = Path(sysconfig.get_path('platlib'))
FASTRTPS, INTROSPECTION = 'rosidl_typesupport_fastrtps_c', 'rosidl_typesupport_introspection_c'
"""What rmw_fastrtps looks for, each in a library of its own name."""

USED = ('builtin_interfaces', 'geometry_msgs', 'std_msgs')


def main() -> int:
    """Build what is missing; return the exit status."""
    if shutil.which('gcc') is None or shutil.which('g++') is None:
        print('no C and C++ compiler (Debian, Ubuntu: apt install g++): some tests are skipped')
        return 0
    for folder in sorted(path for path in FIELDS.iterdir()):
        if importlib.util.find_spec(folder.name) is None:
            with tempfile.TemporaryDirectory(prefix='lwseg_interfaces_') as work:
                build(folder, Path(work))
            print(f'built {folder.name}')
    return 0


def build(folder: Path, work: Path) -> None:
    """Build one package and put it into the environment; it appears complete or not at all."""
    package = folder.name
    generate(folder, work)
    extension = f'{package}_s__rosidl_typesupport_c{sysconfig.get_config_var("EXT_SUFFIX")}'
    unfinished = SITE / f'{package}.unfinished'
    shutil.rmtree(unfinished, ignore_errors=True)
    shutil.copytree(
        work / 'rosidl_generator_py' / package,
        unfinished,
        ignore=shutil.ignore_patterns('*.c', '*.h'),
    )
    (unfinished / '__init__.py').touch()
    compile_all(package, work, unfinished / extension)
    for support in (FASTRTPS, INTROSPECTION):
        link = PREFIX / 'lib' / f'lib{package}__{support}.so'
        link.unlink(missing_ok=True)
        link.symlink_to(SITE / package / extension)
    unfinished.rename(SITE / package)


def generate(folder: Path, work: Path) -> None:
    """Write a package's C, C++ and Python into `work/GENERATOR/PACKAGE`."""
    from rosidl_adapter.msg import convert_msg_to_idl
    from rosidl_generator_c import generate_c
    from rosidl_generator_py import generate_py
    from rosidl_generator_type_description import generate_type_hash
    from rosidl_typesupport_c import generate_c as generate_typesupport
    from rosidl_typesupport_fastrtps_c import generate_typesupport_fastrtps_c
    from rosidl_typesupport_introspection_c import generate_c as generate_introspection

    package, idl = folder.name, work / 'idl'
    names = [f'msg/{path.stem}' for path in sorted(folder.glob('msg/*.msg'))]
    for name in names:
        convert_msg_to_idl(folder, package, Path(f'{name}.msg'), idl / 'msg')
    hashes = work / 'rosidl_generator_type_description' / package

    def arguments(generator: str) -> str:
        content = {
            'package_name': package,
            'output_dir': str(work / generator / package),
            'template_dir': str(PREFIX / 'share' / generator / 'resource'),
            'idl_tuples': [f'{idl}:{name}.idl' for name in names],
            'ros_interface_files': [str(folder / f'{name}.msg') for name in names],
            'target_dependencies': [],
            'type_description_tuples': [f'{name}.idl:{hashes / name}.json' for name in names],
            'include_paths': [f'{used}:{PREFIX / "share" / used}' for used in USED],
        }
        path = work / f'{generator}.json'
        path.write_text(json.dumps(content), encoding='utf-8')
        return str(path)

    generate_type_hash(arguments('rosidl_generator_type_description'))
    generate_c(arguments('rosidl_generator_c'))
    generate_typesupport_fastrtps_c(arguments(FASTRTPS))
    generate_introspection(arguments(INTROSPECTION))
    generate_typesupport(arguments('rosidl_typesupport_c'), [FASTRTPS, INTROSPECTION])
    generate_py(arguments('rosidl_generator_py'), ['rosidl_typesupport_c'])
    for generator in ('rosidl_generator_c', FASTRTPS, INTROSPECTION):
        name = f'{generator}__visibility_control.h'
        template = PREFIX / 'share' / generator / 'resource' / f'{name}.in'
        text = template.read_text(encoding='utf-8')
        for place, value in (('PROJECT_NAME_UPPER', package.upper()), ('PROJECT_NAME', package)):
            text = text.replace(f'@{place}@', value)
        (work / generator / package / 'msg' / name).write_text(text, encoding='utf-8')


def compile_all(package: str, work: Path, extension: Path) -> None:
    """Compile everything that was generated into one extension module."""
    import numpy

    generated = [path for path in work.glob(f'*/{package}') if path.is_dir()]
    includes = [
        *(path.parent for path in generated),
        sysconfig.get_path('include'),
        numpy.get_include(),
        PREFIX / 'include',
        *(PREFIX / 'include').iterdir(),
    ]
    kinds = ('rosidl_generator_c', 'rosidl_generator_py', FASTRTPS, INTROSPECTION)
    libraries = [
        *(f'{used}__{kind}' for used in USED for kind in kinds),
        *('rosidl_runtime_c', 'rosidl_typesupport_c', FASTRTPS, INTROSPECTION),
        *('rosidl_typesupport_fastrtps_cpp', 'fastcdr', 'rcutils', 'rmw', 'stdc++'),
    ]
    sources = [path for folder in generated for path in folder.rglob('*.c*')]
    lib = PREFIX / 'lib'
    subprocess.run(
        [
            *('gcc', '-shared', '-fPIC', '-O1', '-w', '-o', extension),
            *(f'-I{folder}' for folder in includes),
            f'-DROS_PACKAGE_NAME="{package}"',
            *sources,
            *(f'-L{lib}', f'-Wl,-rpath,{lib}', '-Wl,--no-as-needed'),
            *(f'-l{name}' for name in libraries),
        ],
        check=True,
    )


if __name__ == '__main__':
    sys.exit(main())
