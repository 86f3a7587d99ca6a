"""Captured photos on S3: the same names below a prefix as in a folder (handler/captured.py), `ab/TIME-KEY.photo` and so on.

Rights that it needs below the prefix: s3:PutObject, s3:GetObject, and s3:ListBucket of the bucket.
"""

import contextlib
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from handler.captured import ANSWER, FEEDBACK, key_of
from scripts.door.feedback import feedback_on, gone_error
from scripts.release.s3_store import DENIED, PERMISSION
from scripts.release.store import DeniedError, StoreError
from scripts.settings import Settings

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

EXPIRED = (
    "ExpiredToken",
    "ExpiredTokenException",
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "InvalidToken",
    "TokenRefreshRequired",
)
THERE = ("PreconditionFailed", "ConditionalRequestConflict", "412")
CONNECTIONS = 32


class CaptureStore:
    """The photos below s3://bucket/prefix. Safe to call from threads."""

    def __init__(self, address: str, settings: Settings) -> None:
        """Nothing is asked yet. ValueError unless the address names a bucket."""
        parts = urlsplit(address)
        self.address, self.bucket, self.settings = address.rstrip("/"), parts.netloc, settings
        prefix = parts.path.strip("/")
        self.prefix = f"{prefix}/" if prefix else ""
        if parts.scheme != "s3" or not self.bucket or parts.query or parts.fragment:
            raise ValueError(f"SEEFOOD_CAPTURE_DIR is {address!r}, expected a folder or s3://bucket/prefix")
        self._client: S3Client | None = None
        self._making = threading.Lock()

    @contextlib.contextmanager
    def _calls(self) -> Iterator["S3Client"]:
        """The client; what fails inside is a StoreError with the remedy, or a FileNotFoundError for an object that is not there."""
        try:
            with self._making:
                self._client = self._client or self._made()
            yield self._client
        except ClientError as error:
            raise self._explained(error) from error
        except BotoCoreError as error:
            raise StoreError(f"{self.address} cannot be reached: {error}") from error

    def _made(self) -> "S3Client":
        config = Config(
            connect_timeout=self.settings.s3_connect_timeout_s,
            read_timeout=self.settings.s3_read_timeout_s,
            retries={"max_attempts": 2},
            max_pool_connections=CONNECTIONS,
        )
        try:
            return boto3.client("s3", config=config)
        except ValueError as error:  # an address that is none
            raise StoreError(f"{self.address} cannot be reached: {error}") from error

    def _explained(self, error: ClientError) -> Exception:
        code, call = error.response["Error"]["Code"], error.operation_name
        if code == "NoSuchBucket":
            return StoreError(f"{self.address}: there is no bucket {self.bucket!r}: make it, or correct SEEFOOD_CAPTURE_DIR")
        if code in ("NoSuchKey", "404"):
            return FileNotFoundError(f"{self.address}: {error}")
        if code in EXPIRED:
            return DeniedError(f"{self.address}: the credentials have expired or are wrong ({code}): renew them")
        if code in DENIED:
            permission = f"s3:{PERMISSION.get(call, call)}"
            return DeniedError(f"{self.address}: {permission} is denied ({code}): allow it for this role")
        return StoreError(f"{self.address}: {error}")

    def check(self) -> None:
        """StoreError, with the remedy, if the bucket is away, missing, or not for us; writes nothing."""
        with self._calls() as s3:
            s3.list_objects_v2(Bucket=self.bucket, Prefix=self.prefix, MaxKeys=1)
            try:
                # the condition cannot be met: S3 looks at the rights first
                s3.put_object(Bucket=self.bucket, Key=f"{self.prefix}check", Body=b"", IfMatch='"0"')
            except ClientError as error:
                if error.response["Error"]["Code"] not in (*THERE, "NoSuchKey", "404"):
                    raise

    def put(self, place: str, path: Path) -> None:
        """Copy a captured file, unless it is there already. StoreError; OSError if the file cannot be read."""
        content = path.read_bytes()
        with self._calls() as s3:
            try:
                s3.put_object(Bucket=self.bucket, Key=f"{self.prefix}{place}", Body=content, IfNoneMatch="*")
            except ClientError as error:
                if error.response["Error"]["Code"] not in THERE:
                    raise

    def keep(self, request_id: str, label: str | None, answer: dict[str, Any] | None, place: str | None) -> dict[str, Any]:
        """Write feedback, on this answer and below this name if the photo is here, else on the last one on S3 with this id.

        Returns what was written. DoorError if there is no such answer or label, StoreError.
        """
        with self._calls() as s3:
            if place is None or answer is None:
                place = self._last(s3, key_of(request_id))
                if place is None:
                    raise gone_error(request_id)
                try:
                    answer = json.loads(s3.get_object(Bucket=self.bucket, Key=place)["Body"].read())
                except (ClientError, ValueError) as error:
                    if isinstance(error, ClientError) and error.response["Error"]["Code"] not in ("NoSuchKey", "404"):
                        raise
                    raise gone_error(request_id) from error
            else:
                place = f"{self.prefix}{place}"
            assert answer is not None
            kept = feedback_on(answer, label)
            body = json.dumps(kept).encode()
            # the same name for the same answer: however many instances write it, it is there once
            s3.put_object(Bucket=self.bucket, Key=place.removesuffix(ANSWER) + FEEDBACK, Body=body)
            return kept

    def _last(self, s3: "S3Client", key: str) -> str | None:
        """The name of the last answer with this key: one of 256 places is listed, as names begin with the time."""
        pages = s3.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=f"{self.prefix}{key[:2]}/")
        found = [entry["Key"] for page in pages for entry in page.get("Contents", []) if entry["Key"].endswith(f"-{key}{ANSWER}")]
        return max(found, default=None)
