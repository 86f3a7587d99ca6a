"""One model's release in its document: read, replaced, withdrawn, while the releases of others may be written beside it."""

from typing import Any

from scripts.release.document import joined, only_model, parse, releases_of, write
from scripts.release.store import ChangedError, Store


class Released:
    """What is released of a model: `before` this command, and `now`; `others` are the other models' releases by name."""

    def __init__(self, store: Store, model: str | None) -> None:
        """`model`: the only one that is released, if none is named. ReleaseError if the document cannot be read, StoreError.

        ValueError if none is named, and several are released.
        """
        self.store, self.model = store, model
        self.before: dict[str, Any] | None = None
        self.others: dict[str, dict[str, Any]] = {}
        self._tag: str | None = None
        try:
            present = store.read()
            assert present is not None
            document, self._tag = parse(present[0]), present[1]
            self.model = only_model(document, store.address, model)
            self.others = releases_of(document)
            self.before = self.others.pop(self.model, None)
        except FileNotFoundError:
            pass
        self.now = self.before

    def put(self, release: dict[str, Any] | None) -> None:
        """Write the document with this release of the model, None for none of it.

        ChangedError if somebody else has written one of the model meanwhile; StoreError.
        """
        while True:
            try:
                releases = [*self.others.values(), *([release] if release else [])]
                self._tag = self.store.write(write(joined(releases)), self._tag)
                self.now = release
                return
            except ChangedError:
                if not self._others_changed():
                    raise

    def read(self) -> tuple[dict[str, Any] | None, dict[str, dict[str, Any]], str]:
        """(the model's release, the others', the document's tag) as they stand in the store. FileNotFoundError, StoreError."""
        present = self.store.read()
        assert present is not None
        others = releases_of(parse(present[0]))
        return others.pop(str(self.model), None), others, present[1]

    def take_over(self, written: str) -> dict[str, Any] | None:
        """Read the model's release again, and take it for one's own if it was written at that time.

        For a write whose answer was lost: it has changed the tag. FileNotFoundError, StoreError.
        """
        found, others, tag = self.read()
        if found and found["written"] == written:
            self.now, self.others, self._tag = found, others, tag
        return found

    def _others_changed(self) -> bool:
        """Whether what was written meanwhile has left this model's release as it was; then the others' are taken over."""
        try:
            found, others, tag = self.read()
        except FileNotFoundError:
            return False
        if found != self.now:
            return False
        self.others, self._tag = others, tag
        return True
