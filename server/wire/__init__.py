"""HTTP/2, HTTP/1.1 and gRPC framing as pure code: bytes in, calls and bytes out."""
