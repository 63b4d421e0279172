"""The descriptor pool of pyetcd's messages.

A pool of our own, not protobuf's default one: a program that embeds pyetcd may also load another
etcd client, and the default pool refuses a second file that declares `etcdserverpb.PutRequest`.
"""

from typing import TYPE_CHECKING

from pyetcd.proto.builder import DescriptorPool

if TYPE_CHECKING:
    from google.protobuf import descriptor_pool

POOL: "descriptor_pool.DescriptorPool" = DescriptorPool()
