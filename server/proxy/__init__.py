"""etcd's TCP gateway and its gRPC proxy: what stands between clients and a cluster."""
