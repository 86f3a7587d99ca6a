"""What the project is made of, and what is known to be wrong with it.

Commands: sbom (`make sbom`: all that is in the image, as CycloneDX, written while it is built) and vulnerabilities (`make audit`:
known ones of all that uv.lock pins and the SBOM lists). Leaves: jars (what a jar holds), libraries (what wheels bring in C).
accepted.json names the vulnerabilities that are lived with, each with its reason. Imported by nothing.
"""
