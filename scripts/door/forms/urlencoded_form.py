"""An urlencoded form with a photo as base64. curl's --data-binary gives a photo's own bytes that label, too."""

import re
import urllib.parse
from collections.abc import Mapping

from scripts.door.errors import DoorError
from scripts.door.forms.asked import Found
from scripts.door.forms.base64_text import from_base64
from scripts.door.forms.json_form import BASE64_FIELDS
from scripts.door.forms.limits import MAX_PARTS


def urlencoded(whole: bytes) -> dict[str, str]:
    """The fields of an urlencoded form that names a photo; nothing for a photo itself."""
    if not re.match(rb"\w{1,20}=", whole) and b"&" not in whole[:64]:
        return {}
    try:
        fields = urllib.parse.parse_qsl(whole.decode("ascii"), keep_blank_values=True, max_num_fields=MAX_PARTS)
    except UnicodeDecodeError:
        return {}
    except ValueError as error:
        raise DoorError(f"the form has over {MAX_PARTS} fields, the limit", 413) from error
    names = [name for name, _ in fields if name in BASE64_FIELDS]
    if len(names) > 1:
        raise DoorError(f"the form holds several photos: {names}, expected one")
    return dict(fields) if names else {}


def read_fields(fields: Mapping[str, str], found: Found) -> None:
    """Add what the fields hold. DoorError."""
    found.top_k.append(("field top_k", fields.get("top_k")))
    name = next(name for name in fields if name in BASE64_FIELDS)
    # a plus sign that was not escaped is a space by now
    found.photos.append(from_base64(fields[name].replace(" ", "+").encode(), f"the form's {name}"))
