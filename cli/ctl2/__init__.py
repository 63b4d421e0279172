"""`ctl` with ETCDCTL_API=2: the commands of the v2 API, over HTTP."""
