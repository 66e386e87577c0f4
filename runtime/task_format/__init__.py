"""What a task directory of Harbor's says, as far as it concerns boxes: keys of ``task.toml``, Dockerfile, files."""
