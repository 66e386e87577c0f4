"""Sandboxes as pods, one per trial, through the official client's asyncio half (kubernetes >= 37, imported lazily)."""

from __future__ import annotations

from runtime.sandboxes.kubernetes.provider import KubernetesProvider

__all__ = ["KubernetesProvider"]
