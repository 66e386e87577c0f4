"""Sandboxes as ECS tasks (Fargate or EC2 capacity) through boto3, imported lazily."""

from __future__ import annotations

from runtime.sandboxes.ecs.provider import EcsProvider

__all__ = ["EcsProvider"]
