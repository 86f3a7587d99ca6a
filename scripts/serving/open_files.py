"""How many files, and so connections, the server may have open at a time."""

import resource

from scripts.backend.torchserve.sockets import ServeError


def allow_open_files(least: int) -> None:
    """Let this process and those that it starts open as many files as the system allows. ServeError if those are too few."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < least:
        raise ServeError(
            f"{hard} files may be open at a time (ulimit -Hn), expected at least {least}, as each connection takes one: "
            "raise the limit, or set SEEFOOD_OPEN_FILES"
        )
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
