"""What handle() needs of TorchServe's context, for tests that call it without a server."""


class OfflineContext:
    """No headers come with a request, and whatever is set of the answer is not looked at."""

    def get_all_request_header(self, index: int) -> dict[str, str]:
        return {}

    def set_response_content_type(self, index: int, value: str) -> None:
        pass

    def set_response_status(self, code: int, phrase: str, index: int) -> None:
        pass

    def set_response_header(self, index: int, key: str, value: str) -> None:
        pass
