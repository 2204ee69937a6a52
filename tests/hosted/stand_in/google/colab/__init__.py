"""Stand in for Colab's own package, by which the course knows where it is."""
