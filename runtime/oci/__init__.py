"""Container images without a container engine: fetched from registries by digest, unpacked once per layer, shared by
every run of the machine. What is made of an image's files is other rooms' business."""
