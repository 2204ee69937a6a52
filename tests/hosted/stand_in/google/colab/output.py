"""JAX asks for this where `google.colab` is loaded."""
