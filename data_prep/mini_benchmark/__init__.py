"""The embedded benchmark: small video data sets and a mini CLIP, from an open picture set."""

from pathlib import Path

# The mini CLIP teacher, a folder in open_clip's layout.
TEACHER = Path(__file__).with_name("teacher")
