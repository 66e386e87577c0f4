"""Pretrained policies on this machine: taken in once, wherever they are published, and named in specs from then on."""
