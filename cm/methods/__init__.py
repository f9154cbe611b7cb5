"""Training objectives, one a file. An objective is a frozen dataclass: its fields are the `objective:` of the YAML."""
