"""The papers' networks in plain PyTorch: no ROS, no files, no training."""

from lwseg_ros.networks.catalog import create_network, list_networks

__all__ = ['create_network', 'list_networks']
