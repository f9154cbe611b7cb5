"""Where a data set's bytes are: stores of many encoded images, and archives or folders of a few files."""
