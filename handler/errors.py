"""What is wrong with a photo, for the person who sent it."""


class PhotoError(ValueError):
    """These bytes are not a photo that we can read; the message says why, for the person who sent them.

    `status` is HTTP's: 413 over a limit, 415 an unknown format, 422 a known one, but broken or of no use, 503 over what may be
    decoded at a time: later it may be read.
    """

    def __init__(self, message: str, status: int = 422) -> None:
        super().__init__(message)
        self.status = status


class HiddenError(PhotoError):
    """What was looked for stands behind more pieces than are looked through in a millisecond: a decoder may find it."""
