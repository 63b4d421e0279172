"""The gRPC services: check, call, fill the header."""
