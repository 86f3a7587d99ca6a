"""Commands around the server: install, archive, serve, predict. Need the `serve` extra only."""
