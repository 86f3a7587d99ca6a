"""Photos and results on S3. Endpoint and credentials are boto3's: AWS_ENDPOINT_URL, AWS_PROFILE, a role and so on."""

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import boto3
from boto3.exceptions import Boto3Error
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, EndpointProviderError, ParamValidationError, UnsupportedS3ArnError
from urllib3.exceptions import HTTPError

from scripts.folders import leftover, shown
from scripts.predict.photo import PredictError, UnreadError, stamp_of, unusable

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

SCHEME = "s3://"
MISSING = ("NoSuchKey", "NoSuchBucket", "NoSuchVersion", "404", "NotFound")
DENIED = ("AccessDenied", "AllAccessDisabled", "403", "Forbidden")
# other codes of one object: archived, encrypted with a key of the client's or one that is gone; the rest concerns every object
OF_THE_OBJECT = ("InvalidObjectState", "KeyTooLong", "KMS.", "InvalidRequest", "InvalidBucketName")
OF_THE_ADDRESS = (ParamValidationError, EndpointProviderError, UnsupportedS3ArnError)  # nothing was asked
PAUSES_S = (0.5, 2.0, 8.0)  # between tries of a body that breaks off: boto asks again for an answer's head alone
CONNECTIONS = 32
MAKING = threading.Lock()


@cache
def client() -> "S3Client":
    """The process's only one: its threads share the connections."""
    retries: Any = {"mode": "standard", "max_attempts": 6}
    return boto3.client("s3", config=Config(connect_timeout=10, read_timeout=60, retries=retries, max_pool_connections=CONNECTIONS))


def split_address(address: str) -> tuple[str, str]:
    """(bucket, key or prefix) of s3://bucket/key. ValueError if there is no bucket."""
    bucket, _, key = address.removeprefix(SCHEME).partition("/")
    if shown(address) != address:
        raise ValueError(f"the address is {shown(address)!r}, expected UTF-8")
    if not address.startswith(SCHEME) or not bucket or urlsplit(f"//{bucket}").netloc != bucket:
        raise ValueError(f"the address is {address!r}, expected s3://bucket/key")
    return bucket, key


class BrokenOffError(PredictError):
    """The body of an object ended too early."""


@contextlib.contextmanager
def calls(address: str) -> Iterator["S3Client"]:
    """The client; what fails inside is a PredictError that names the address."""
    try:
        with MAKING:  # boto's own making is not safe on several threads
            s3 = client()
        yield s3
    except ClientError as error:
        raise PredictError(f"{address}: {_reason(error)}") from error
    except Boto3Error as error:  # of an upload; it holds the reason in words alone
        raise PredictError(f"{address}: {error}") from error
    except OF_THE_ADDRESS as error:
        raise PredictError(f"{address}: {_reason(error)}") from error
    except (BotoCoreError, HTTPError) as error:
        raise PredictError(f"{address} cannot be reached: {error}") from error


def _reason(error: Exception) -> str:
    if not isinstance(error, ClientError):
        return " ".join(str(error).split())
    code, call = error.response["Error"]["Code"], error.operation_name
    if code in DENIED:
        return f"{call} is denied ({code}): allow it for these credentials"
    if code in MISSING:
        return "there is no such bucket" if code == "NoSuchBucket" else "there is no such object"
    return str(error)


def _status(error: BaseException | None) -> int | None:
    """What HTTP would have for an error of one object; None where it concerns all, as credentials and a server's load do."""
    if isinstance(error, OF_THE_ADDRESS):
        return 400
    code = error.response["Error"]["Code"] if isinstance(error, ClientError) else ""
    if code in MISSING:
        return 404
    return 403 if code in DENIED or code.startswith(OF_THE_OBJECT) else None


@dataclass(frozen=True, slots=True)
class StoredPhoto:
    """An object. `tag` is its ETag where a listing had it."""

    bucket: str
    key: str
    tag: str = ""
    text: str = ""

    @property
    def name(self) -> str:
        """Its address."""
        return f"{SCHEME}{self.bucket}/{self.key}"

    def stamp(self) -> str:
        """Its ETag."""
        return stamp_of(self.tag, self.text)

    def read(self) -> bytes:
        """See Photo."""
        try:
            with calls(self.name) as s3:
                return self._read(s3)
        except UnreadError:
            raise
        except PredictError as error:
            cause = error.__cause__
            if not isinstance(cause, Exception) or (status := _status(cause)) is None:
                raise
            reason = _reason(cause)
            raise UnreadError(reason if status == 404 else f"the object cannot be read: {reason}", status) from error

    def _read(self, s3: "S3Client") -> bytes:
        for pause_s in PAUSES_S:
            with contextlib.suppress(BrokenOffError):
                return self._read_once(s3)
            time.sleep(pause_s)
        return self._read_once(s3)

    def _read_once(self, s3: "S3Client") -> bytes:
        answer = s3.get_object(Bucket=self.bucket, Key=self.key)
        if error := unusable(answer["ContentLength"]):
            answer["Body"].close()
            raise error
        try:
            return answer["Body"].read()
        except (BotoCoreError, HTTPError) as broken:
            raise BrokenOffError(f"{self.name} cannot be read to its end: {broken}") from broken


def stored(address: str) -> StoredPhoto:
    """The object of an address. ValueError if it names none."""
    bucket, key = split_address(address)
    if not key:
        raise ValueError(f"the address is {address!r}, expected s3://bucket/key")
    return StoredPhoto(bucket, key)


def objects_below(address: str, passed: Counter[str]) -> Iterator[StoredPhoto]:
    """The object of this address, or all below it as in a folder, in S3's order; `passed` counts the leftovers. PredictError."""
    bucket, prefix = split_address(address)
    with calls(address) as s3:
        first = s3.list_objects_v2(Bucket=bucket, Prefix=prefix, MaxKeys=1).get("Contents", [])
        if prefix and not prefix.endswith("/"):
            if first and first[0]["Key"] == prefix:
                yield StoredPhoto(bucket, prefix, first[0]["ETag"])
                return
            prefix += "/"  # photos is a folder here: photos2/1.jpg is not in it
        for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
            for entry in page.get("Contents", []):
                key = entry["Key"]
                if key.endswith("/"):  # what a console makes for a folder
                    continue
                if kind := next(filter(None, map(leftover, key[len(prefix) :].split("/"))), None):
                    passed[kind] += 1
                    continue
                yield StoredPhoto(bucket, key, entry["ETag"])


def check_bucket(address: str) -> None:
    """PredictError if the bucket of an address is not there: better now than after hours. What is denied shows later."""
    bucket, _ = split_address(address)
    try:
        with calls(address) as s3:
            s3.head_bucket(Bucket=bucket)
    except PredictError as error:
        cause = error.__cause__
        if not isinstance(cause, ClientError):
            raise
        if cause.response["Error"]["Code"] in MISSING:
            raise PredictError(f"{address}: there is no bucket {bucket!r}") from error


def upload(file: Path, address: str, content_type: str) -> None:
    """Put a file there, in parts if it is large; parts are taken back if one fails. PredictError."""
    bucket, key = split_address(address)
    with calls(address) as s3:
        s3.upload_file(str(file), bucket, key, ExtraArgs={"ContentType": content_type})
