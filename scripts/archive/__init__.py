"""Model archives: an exported model becomes MODEL-VERSION.mar, and what is in such a file.

Commands: build (`make archive`), inspect (`make inspect`). Leaves: name (file names, versions, which archive is meant), read
(unpack, check, load the handler), precise (the most precise program), foreign (an archive that is not ours), unzip, pack. Rooms
above may import the leaves.
"""
