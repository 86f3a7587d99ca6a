"""Labels for many photos: make predict."""
