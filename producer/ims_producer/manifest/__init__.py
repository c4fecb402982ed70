"""Manifests are files in git that list images: `parsing` reads and `planning` compares them."""
