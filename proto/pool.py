"""The descriptor pool of pyetcd's messages.

A pool of our own, not protobuf's default one: a program that embeds pyetcd may also load another
etcd client, and the default pool refuses a second file that declares `etcdserverpb.PutRequest`.
"""

from google.protobuf.descriptor_pool import DescriptorPool

POOL = DescriptorPool()
