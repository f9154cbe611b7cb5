"""From images to scores: sets of images, feature extractors, metrics and their uncertainty."""
