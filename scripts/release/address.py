"""From a release document's address to the store that holds it."""

from pathlib import Path
from urllib.parse import urlsplit

from scripts.release.folder_store import FolderStore
from scripts.release.store import Store
from scripts.settings import Settings


def open_store(address: str, settings: Settings | None = None) -> Store:
    """The store at an address: a path, or s3://bucket/key. Nothing is read yet. ValueError for any other address."""
    settings = settings or Settings()  # make deploy reads no settings of serving and rollouts
    parts = urlsplit(address)
    if parts.scheme == "s3":
        from scripts.release.s3_store import S3Store  # boto3 takes half a second to import

        return S3Store(address, settings)
    if "://" in address or not address.endswith(".json"):
        raise ValueError(f"release is {address!r}, expected a path or s3://bucket/key that ends in .json")
    return FolderStore(Path(address), settings)
