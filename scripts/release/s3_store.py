"""A release document in a versioned S3 bucket: see scripts/release/store.py for what lies where.

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
from scripts.release.store import ChangedError, DeniedError, StoreError, check_same, save
from scripts.settings import Settings

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


HISTORY = 50  # documents: each is a request of its own
# a response to HEAD has no body, and so no code but the status
DENIED = ("AccessDenied", "AllAccessDisabled", "403", "Forbidden")
# calls whose permission has another name
PERMISSION = {"HeadObject": "GetObject", "ListObjectsV2": "ListBucket", "ListObjectVersions": "ListBucketVersions"}
CHUNK = 1024 * 1024  # bytes of an archive that are in memory


class S3Store:
    """A document in a bucket that keeps versions."""

    def __init__(self, address: str, settings: Settings | None = None) -> None:
        """ValueError unless the address is s3://bucket/key.json."""
        parts = urlsplit(address)
        self.settings = settings or Settings()
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
                config = Config(
                    connect_timeout=self.settings.s3_connect_timeout_s,
                    read_timeout=self.settings.s3_read_timeout_s,
                    retries={"max_attempts": 2},
                )
                self._client = boto3.client("s3", config=config)
            yield self._client
        except ClientError as error:
            code = error.response["Error"]["Code"]
            if code in ("NoSuchKey", "404"):
                raise FileNotFoundError(f"{self.address}: {error}") from error
            if code in ("PreconditionFailed", "ConditionalRequestConflict", "412"):
                raise ChangedError(
                    f"{self.address} was written by somebody else meanwhile: see make status, then try again"
                ) from error
            if code in DENIED:
                permission = f"s3:{PERMISSION.get(error.operation_name, error.operation_name)}"
                raise DeniedError(
                    f"{self.address}: {permission} is denied ({code}): allow it for this role; on ECS, in the identity stack"
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
            self._check_versioning(s3)
            # S3 checks the condition and writes in one step, so no lock is needed
            condition = {"IfMatch": tag} if tag else {"IfNoneMatch": "*"}
            body = {"Bucket": self.bucket, "Key": self.key, "Body": text.encode(), "ContentType": "application/json"}
            try:
                return s3.put_object(**body, **condition)["ETag"]  # type: ignore[arg-type]
            except (ClientError, BotoCoreError) as error:
                # it may have been written, and only the answer lost: botocore's retry is then refused, as the tag has changed
                if new_tag := self._tag_of(text):
                    return new_tag
                if isinstance(error, ClientError) and error.response["Error"]["Code"] == "NoSuchKey":
                    raise ChangedError(f"{self.address} was removed by somebody else meanwhile: see make status") from error
                raise

    def _check_versioning(self, s3: "S3Client") -> None:
        """StoreError unless the bucket keeps the versions of its objects."""
        status = s3.get_bucket_versioning(Bucket=self.bucket).get("Status", "never switched on")
        if status != "Enabled":
            switch = f"aws s3api put-bucket-versioning --bucket {self.bucket} --versioning-configuration Status=Enabled"
            raise StoreError(
                f"bucket {self.bucket!r} keeps no old versions (versioning: {status}), so there would be no way back: {switch}"
            )

    def _tag_of(self, text: str) -> str | None:
        """The present document's tag if this is its text."""
        try:
            present = self.read()
        except DeniedError:
            raise
        except (StoreError, FileNotFoundError):
            return None
        return present[1] if present and present[0] == text else None

    def history(self) -> list[str]:
        """See Store."""
        with self._calls() as s3:
            pages = s3.get_paginator("list_object_versions").paginate(Bucket=self.bucket, Prefix=self.key)
            # the prefix also matches longer keys
            versions = [entry for page in pages for entry in page.get("Versions", []) if entry["Key"] == self.key]
            versions.sort(key=lambda entry: entry["LastModified"], reverse=True)
            texts = []
            for entry in versions[:HISTORY]:
                answer = s3.get_object(Bucket=self.bucket, Key=self.key, VersionId=entry["VersionId"])
                texts.append(answer["Body"].read().decode(errors="replace"))
        return texts

    def fetch(self, name: str, target: Path) -> None:
        """See Store."""
        with self._calls() as s3:
            answer = s3.get_object(Bucket=self.bucket, Key=self.prefix + name)
            save(name, answer["ContentLength"], answer["Body"].iter_chunks(CHUNK), target)

    def put(self, archive: Path) -> None:
        """See Store. StoreError unless the bucket keeps versions: no document could be written for the archive."""
        checksum = sha256(archive)  # kept as metadata of our own: an ETag is not a SHA-256
        try:
            with self._calls() as s3:
                stored = s3.head_object(Bucket=self.bucket, Key=self.prefix + archive.name)["Metadata"].get("sha256", "unknown")
            check_same(archive, checksum, stored, self.address)
        except FileNotFoundError:
            with self._calls() as s3, archive.open("rb") as body:
                self._check_versioning(s3)
                s3.put_object(
                    Bucket=self.bucket, Key=self.prefix + archive.name, Body=body, Metadata={"sha256": checksum}, IfNoneMatch="*"
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

    def _status_entries(self, s3: "S3Client") -> Iterator[tuple[float, str]]:
        """(age in seconds by S3's own clock, key) of each status object, 1000 to a request."""
        for page in s3.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=self.status_prefix):
            now = parsedate_to_datetime(page["ResponseMetadata"]["HTTPHeaders"]["date"]).astimezone(UTC)
            for entry in page.get("Contents", []):
                yield (now - entry["LastModified"]).total_seconds(), entry["Key"]

    def statuses(self) -> list[tuple[float, dict[str, Any]]]:
        """See Store."""
        statuses = []
        with self._calls() as s3:
            for age_s, key in self._status_entries(s3):
                if age_s > self.settings.forget_status_s:
                    s3.delete_object(Bucket=self.bucket, Key=key)
                    continue
                try:
                    with self._calls():
                        body = s3.get_object(Bucket=self.bucket, Key=key)["Body"].read()
                    statuses.append((age_s, json.loads(body)))
                except (FileNotFoundError, ValueError, RecursionError):
                    continue  # the instance has just stopped, or somebody else wrote that object
        return statuses

    def instances(self) -> list[tuple[float, str]]:
        """See Store."""
        with self._calls() as s3:
            found = [(age_s, key.removeprefix(self.status_prefix)) for age_s, key in self._status_entries(s3)]
        return [(age_s, name.removesuffix(".json")) for age_s, name in found if name.endswith(".json")]
