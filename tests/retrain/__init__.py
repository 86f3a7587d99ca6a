"""Tests of scripts/retrain."""
