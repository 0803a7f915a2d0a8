"""Prepares TensorFlow's environment before any test module imports it."""
import tfprune  # noqa: F401
