"""What is served over HTTP/1.1 on the client port."""
