"""The words both sides share: messages, methods, errors, key ranges. Imports nothing above it."""
