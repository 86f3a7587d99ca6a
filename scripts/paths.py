"""Where the checkout lies, and what commands of several rooms find in it. Imported by training, too."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REVIEWED = ROOT / "collected" / "labels.csv"  # path,label: make review writes it, make retrain reads it
