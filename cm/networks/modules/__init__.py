"""The torch modules that network descriptions build. Importing this package's files imports torch."""
