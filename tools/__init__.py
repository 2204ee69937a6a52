"""What only maintainers need; each is started from the top of the clone, as `python -m
tools.bench`.
"""
