"""A release document in a versioned S3 bucket: scripts/release/store.py says what lies where.

Endpoint and credentials are boto3's: AWS_ENDPOINT_URL_S3, AWS_PROFILE, a role and so on.
"""

import contextlib
import json
from collections.abc import Iterator, Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from handler.parts import sha256
from scripts.release.store import FORGET_STATUS_S, ChangedError, StoreError, check_same

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

CONNECT_TIMEOUT_S, READ_TIMEOUT_S = 5, 10


class S3Store:
    """A document in a bucket that keeps versions."""

    def __init__(self, address: str) -> None:
        """ValueError unless the address is s3://bucket/key.json."""
        parts = urlsplit(address)
        self.address, self.bucket, self.key = address, parts.netloc, parts.path.lstrip("/")
        if not self.bucket or not self.key.endswith(".json"):
            raise ValueError(f"release is {address!r}, expected s3://bucket/key that ends in .json")
        self.prefix = self.key.rpartition("/")[0] + "/" if "/" in self.key else ""
        self.status_prefix = f"{self.key.removesuffix('.json')}.status/"
        self._client: S3Client | None = None

    @contextlib.contextmanager
    def _calls(self) -> Iterator["S3Client"]:
        try:
            if self._client is None:
                config = Config(connect_timeout=CONNECT_TIMEOUT_S, read_timeout=READ_TIMEOUT_S, retries={"max_attempts": 2})
                self._client = boto3.client("s3", config=config)
            yield self._client
        except ClientError as error:
            code = error.response["Error"]["Code"]
            if code in ("NoSuchKey", "404"):
                raise FileNotFoundError(f"{self.address}: {error}") from error
            if code in ("PreconditionFailed", "ConditionalRequestConflict", "412"):
                raise ChangedError(
                    f"{self.address} was written by somebody else meanwhile: look at make status, and try again"
                ) from error
            raise StoreError(f"{self.address}: {error}") from error
        except BotoCoreError as error:
            raise StoreError(f"{self.address} cannot be reached: {error}") from error

    def read(self, tag: str | None = None) -> tuple[str, str] | None:
        """See Store."""
        with self._calls() as s3:
            try:
                answer = s3.get_object(Bucket=self.bucket, Key=self.key, **({"IfNoneMatch": tag} if tag else {}))  # type: ignore[arg-type]
            except ClientError as error:
                if error.response["Error"]["Code"] in ("304", "NotModified"):
                    return None
                raise
            return answer["Body"].read().decode(errors="replace"), answer["ETag"]

    def write(self, text: str, tag: str | None) -> str:
        """See Store. Also StoreError unless the bucket keeps versions: they are the history."""
        with self._calls() as s3:
            status = s3.get_bucket_versioning(Bucket=self.bucket).get("Status", "never switched on")
            if status != "Enabled":
                switch = f"aws s3api put-bucket-versioning --bucket {self.bucket} --versioning-configuration Status=Enabled"
                raise StoreError(
                    f"bucket {self.bucket!r} keeps no old versions (versioning: {status}), so there would be no way back: {switch}"
                )
            condition = {"IfMatch": tag} if tag else {"IfNoneMatch": "*"}
            body = {"Bucket": self.bucket, "Key": self.key, "Body": text.encode(), "ContentType": "application/json"}
            try:
                return s3.put_object(**body, **condition)["ETag"]  # type: ignore[arg-type]
            except (ClientError, BotoCoreError) as error:
                # it may have been written, and only the answer lost: a second try is then refused, as the tag is another one
                found = self._written(text)
                if found:
                    return found
                if isinstance(error, ClientError) and error.response["Error"]["Code"] == "NoSuchKey":
                    raise ChangedError(f"{self.address} was removed by somebody else meanwhile: look at make status") from error
                raise

    def _written(self, text: str) -> str | None:
        try:
            found = self.read()
        except (StoreError, FileNotFoundError):
            return None
        return found[1] if found and found[0] == text else None

    def history(self) -> list[str]:
        """See Store."""
        with self._calls() as s3:
            pages = s3.get_paginator("list_object_versions").paginate(Bucket=self.bucket, Prefix=self.key)
            found = [entry for page in pages for entry in page.get("Versions", []) if entry["Key"] == self.key]
            found.sort(key=lambda entry: entry["LastModified"], reverse=True)
            texts = []
            for entry in found[:50]:
                answer = s3.get_object(Bucket=self.bucket, Key=self.key, VersionId=entry["VersionId"])
                texts.append(answer["Body"].read().decode(errors="replace"))
        return texts

    def fetch(self, name: str, target: Path) -> None:
        """See Store."""
        with self._calls() as s3:
            body = s3.get_object(Bucket=self.bucket, Key=self.prefix + name)["Body"]
            with target.open("wb") as file:
                for chunk in body.iter_chunks(1024 * 1024):
                    file.write(chunk)

    def put(self, archive: Path) -> None:
        """See Store."""
        ours = sha256(archive)
        try:
            with self._calls() as s3:
                theirs = s3.head_object(Bucket=self.bucket, Key=self.prefix + archive.name)["Metadata"].get("sha256", "unknown")
            check_same(archive, ours, theirs, self.address)
        except FileNotFoundError:
            with self._calls() as s3, archive.open("rb") as body:
                s3.put_object(
                    Bucket=self.bucket, Key=self.prefix + archive.name, Body=body, Metadata={"sha256": ours}, IfNoneMatch="*"
                )

    def has(self, name: str) -> bool:
        """See Store."""
        try:
            with self._calls() as s3:
                s3.head_object(Bucket=self.bucket, Key=self.prefix + name)
        except FileNotFoundError:
            return False
        return True

    def write_status(self, instance: str, status: Mapping[str, Any] | None) -> None:
        """See Store."""
        key = f"{self.status_prefix}{instance}.json"
        with self._calls() as s3:
            if status is None:
                s3.delete_object(Bucket=self.bucket, Key=key)
            else:
                s3.put_object(Bucket=self.bucket, Key=key, Body=json.dumps(status).encode(), ContentType="application/json")

    def statuses(self) -> list[tuple[float, dict[str, Any]]]:
        """See Store. Ages are by S3's own clock."""
        found = []
        with self._calls() as s3:
            for page in s3.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=self.status_prefix):
                now = parsedate_to_datetime(page["ResponseMetadata"]["HTTPHeaders"]["date"]).astimezone(UTC)
                for entry in page.get("Contents", []):
                    age_s = (now - entry["LastModified"]).total_seconds()
                    if age_s > FORGET_STATUS_S:
                        s3.delete_object(Bucket=self.bucket, Key=entry["Key"])
                        continue
                    try:
                        with self._calls():
                            body = s3.get_object(Bucket=self.bucket, Key=entry["Key"])["Body"].read()
                        found.append((age_s, json.loads(body)))
                    except (FileNotFoundError, ValueError):
                        continue  # it has just stopped, or somebody else wrote that
        return found
