"""Stands in for Colab's own package, whose presence is how the course knows where it is."""
