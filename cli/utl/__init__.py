"""`pyetcd utl`: etcdutl, the tool for snapshots and for the files of a stopped member."""
