"""The sandbox cloud: a simulation of OTC's IAM and IMS after their API references."""

from ims_sandbox.cloud.options import CloudOptions
from ims_sandbox.cloud.server import running_cloud, serve

__all__ = ["CloudOptions", "running_cloud", "serve"]
