"""One factor of the `gpu_aware` law per file: what it is for, its formula, its inputs."""
