"""Where the checkout lies. Imported by training, too."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
