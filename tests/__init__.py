"""What proves the course; CONTRIBUTING says which is which."""
