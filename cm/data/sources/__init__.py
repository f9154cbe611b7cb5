"""Where the bytes of a data set are: stores of many encoded images, and archives or folders of a few files."""
