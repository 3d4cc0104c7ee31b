"""`python -m lwseg_ros.cli` is `lwseg`."""

from lwseg_ros.cli import main

if __name__ == '__main__':
    main()
