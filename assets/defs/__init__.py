"""Components of this code location; each folder with a `defs.yaml` is one."""
