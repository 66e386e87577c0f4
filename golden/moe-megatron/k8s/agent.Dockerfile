# syntax=docker/dockerfile:1
# Compiled by LiveRL. Change the spec, not this file.
# The image that brings the coding agent into sandbox pods, installed as every run installs it. Build and push:
#   docker build -f agent.Dockerfile -t registry.example.com/liverl-openhands:1.57.0 . && docker push registry.example.com/liverl-openhands:1.57.0
FROM registry.example.com/liverl:0.1.0 AS agent
USER 0:0
RUN python -m runtime.scaffolds.image '{"version": "1.57.0", "max_turns": 100, "runtime_image": "registry.example.com/liverl-openhands:1.57.0", "max_replies_without_tool": 3, "compact_tokens": null, "type": "openhands-sdk", "tools": ["terminal", "file_editor", "task_tracker"]}' /opt/agent
FROM busybox:1.37
COPY --from=agent /opt/agent /opt/agent
