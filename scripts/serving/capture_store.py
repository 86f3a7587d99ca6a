"""Captured photos on S3, below a prefix: `ab/KEY-TIME.photo`, its answer `.json` and its feedback `.feedback`.

In a folder (handler/captured.py) the time comes first. Here the key does: one listing finds the photos of an id among millions.
Rights that it needs: s3:PutObject and s3:GetObject below the prefix, s3:ListBucket and s3:GetLifecycleConfiguration of the bucket.
"""

import contextlib
import json
import re
import threading
import time
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from handler.captured import ANSWER, FEEDBACK, PHOTO, key_of
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
MISSING = ("NoSuchKey", "404")
NO_RULES = "NoSuchLifecycleConfiguration"
DAY_S = 24 * 3600.0
CONNECTIONS = 32
# An id that is not here is not asked for again for as long. Short, as another instance may be copying its photo just now.
GONE_S = 1.0
MOST_GONE = 10_000


class CaptureStore:
    """The photos below s3://bucket/prefix. Safe to call from threads."""

    def __init__(self, address: str, settings: Settings, setting: str = "SEEFOOD_CAPTURE_DIR") -> None:
        """Nothing is asked yet; `setting` is what gave the address. ValueError unless that names a bucket."""
        self.setting = setting
        parts = urlsplit(address)
        self.address, self.bucket, self.settings = address.rstrip("/"), parts.netloc, settings
        prefix = parts.path.strip("/")
        self.prefix = f"{prefix}/" if prefix else ""
        if parts.scheme != "s3" or not self.bucket or parts.query or parts.fragment:
            raise ValueError(f"{setting} is {address!r}, expected a folder or s3://bucket/prefix")
        self._client: S3Client | None = None
        self._making = threading.Lock()
        self._gone: dict[str, float] = {}  # until when, by the key of an id

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
            return StoreError(f"{self.address}: there is no bucket {self.bucket!r}: make it, or correct {self.setting}")
        if code in MISSING:
            return FileNotFoundError(f"{self.address}: {error}")
        if code in EXPIRED:
            return DeniedError(f"{self.address}: the credentials have expired or are wrong ({code}): renew them")
        if code in DENIED:
            permission = f"s3:{PERMISSION.get(call, call).replace('BucketLifecycle', 'Lifecycle')}"
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
                if error.response["Error"]["Code"] not in (*THERE, *MISSING):
                    raise

    def kept_s(self) -> float | None:
        """For how many seconds the bucket's lifecycle rules keep photos; None where no rule removes them. StoreError."""
        with self._calls() as s3:
            try:
                rules = s3.get_bucket_lifecycle_configuration(Bucket=self.bucket)["Rules"]
            except ClientError as error:
                if error.response["Error"]["Code"] != NO_RULES:
                    raise
                return None
        days = [
            rule["Expiration"]["Days"]
            for rule in rules
            if rule["Status"] == "Enabled" and rule.get("Expiration", {}).get("Days") and self._is_below(_prefix(rule))
        ]
        return min(days) * DAY_S if days else None

    def _is_below(self, prefix: str | None) -> bool:
        return prefix is not None and self.prefix.startswith(prefix)

    def _key(self, place: str) -> str:
        """The object of a file of the folder: ab/TIME-KEY.json is PREFIXab/KEY-TIME.json."""
        path = PurePosixPath(place)
        time_ns, _, key = path.stem.partition("-")
        return f"{self.prefix}{path.parent}/{key}-{time_ns}{path.suffix}"

    def has(self, place: str) -> bool:
        """Whether a captured file is there. StoreError."""
        with contextlib.suppress(FileNotFoundError), self._calls() as s3:
            s3.head_object(Bucket=self.bucket, Key=self._key(place))
            return True
        return False

    def put(self, place: str, path: Path) -> bool:
        """Copy a captured file; False if it is there already. StoreError; OSError if the file cannot be read."""
        content = path.read_bytes()
        with self._calls() as s3:
            written = self._put_new(s3, self._key(place), content)
        self._gone.pop(PurePosixPath(place).stem.partition("-")[2], None)
        return written

    def _put_new(self, s3: "S3Client", name: str, content: bytes) -> bool:
        """Write an object; False, and nothing is written, if there is one. ClientError."""
        try:
            s3.put_object(Bucket=self.bucket, Key=name, Body=content, IfNoneMatch="*")
        except ClientError as error:
            if error.response["Error"]["Code"] not in THERE:
                raise
            return False
        return True

    def keep(self, request_id: str, label: str | None, answer: dict[str, Any] | None, place: str | None) -> dict[str, Any]:
        """Write feedback, on this answer and below this name if the photo is here, else on the last one on S3 with this id.

        Returns what is kept: that of before, if it is the same. DoorError if there is no such answer or label, StoreError.
        """
        with self._calls() as s3:
            if place is None or answer is None:
                name = self._last(s3, request_id)
                answer = self._read(s3, name)
                if answer is None:
                    raise gone_error(request_id)
            else:
                name = self._key(place)
            kept = feedback_on(answer, label)
            # the same name for the same answer: however many instances write it, it is there once
            name, body = name.removesuffix(ANSWER) + FEEDBACK, json.dumps(kept).encode()
            if not self._put_new(s3, name, body):
                before = self._read(s3, name)
                if before is not None and before.get("label") == label:
                    return before
                s3.put_object(Bucket=self.bucket, Key=name, Body=body)
            return kept

    def uncorrected(self, count: int, model: str) -> list[str] | None:
        """The addresses of the last `count` photos of a model on which nobody gave feedback, the newest first.

        None where no photo of any model is. The address may be of all captured photos, or of one of their folders. StoreError.
        """
        names = re.compile(rf"(?:.*/)?[^/]+-(\d+){re.escape(PHOTO)}")
        with self._calls() as s3:
            pages = s3.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=self.prefix)
            keys = {entry["Key"] for page in pages for entry in page.get("Contents", [])}
            found = [(int(match[1]), key.removesuffix(PHOTO)) for key in keys if (match := names.fullmatch(key))]
            newest = [stem for _, stem in sorted(found, reverse=True) if stem + FEEDBACK not in keys]
            ours: list[str] = []
            with ThreadPoolExecutor(CONNECTIONS) as pool:
                while newest and len(ours) < count:  # of millions no more answers are read than are needed
                    size = max(CONNECTIONS, count - len(ours))
                    some, newest = newest[:size], newest[size:]
                    models = pool.map(lambda stem: self._answered_by(s3, stem + ANSWER, keys), some)
                    ours += [stem for stem, by in zip(some, models, strict=True) if by in (None, model)]
            return [f"s3://{self.bucket}/{stem}{PHOTO}" for stem in ours[:count]] if found else None

    def _answered_by(self, s3: "S3Client", name: str, keys: Collection[str]) -> str | None:
        answer = self._read(s3, name) if name in keys else None
        model = (answer or {}).get("model")
        return model if isinstance(model, str) else None

    def _read(self, s3: "S3Client", name: str) -> dict[str, Any] | None:
        """The content of an object of JSON; None if it is not there, or broken. ClientError."""
        try:
            content = json.loads(s3.get_object(Bucket=self.bucket, Key=name)["Body"].read())
        except ValueError:
            return None
        except ClientError as error:
            if error.response["Error"]["Code"] not in MISSING:
                raise
            return None
        return content if isinstance(content, dict) else None

    def _last(self, s3: "S3Client", request_id: str) -> str:
        """The name of the last answer with this id whose photo is there, by one listing of its own objects. DoorError."""
        key = key_of(request_id)
        if self._gone.get(key, 0) > time.monotonic():
            raise gone_error(request_id)
        pages = s3.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=f"{self.prefix}{key[:2]}/{key}-")
        names = {entry["Key"] for page in pages for entry in page.get("Contents", [])}
        found = [name for name in names if name.endswith(ANSWER) and name.removesuffix(ANSWER) + PHOTO in names]
        if not found:
            if len(self._gone) >= MOST_GONE:
                self._gone.clear()
            self._gone[key] = time.monotonic() + GONE_S
            raise gone_error(request_id)
        return max(found)


def _prefix(rule: Any) -> str | None:
    """Below which a lifecycle rule works on all objects; None if only on some, by tags or sizes."""
    of = rule.get("Filter", {})
    if of.keys() - {"Prefix"}:
        return None
    return str(rule.get("Prefix", of.get("Prefix", "")))
