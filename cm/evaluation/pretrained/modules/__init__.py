"""The torch modules of pretrained networks."""
