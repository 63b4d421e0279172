"""etcd's peer protocol: streams, pipeline, snapshots, probing."""
