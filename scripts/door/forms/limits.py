"""How much a body may hold. Each is refused at the byte that is over it."""

MEGABYTE = 1024 * 1024
MAX_PHOTO_BYTES = 20 * MEGABYTE
MAX_BODY_BYTES = 28 * MEGABYTE  # such a photo as base64, and what a form adds
MAX_PARTS, MAX_HEADERS, MAX_HEADER_BYTES = 32, 8, 4096
MAX_FIELD_BYTES = 4096  # of a part that is no photo
# lists, objects and their members: a photo needs three, and each takes far more memory than its two bytes of text
MAX_JSON_VALUES = 1000
MAX_INSTANCES = 8
