"""What only maintainers need: `python -m tools.refresh`, from the clone's top."""
