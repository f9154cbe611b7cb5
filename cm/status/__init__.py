"""How far the runs of a suite are, from the files that they leave; nothing here starts, ends or locks anything."""
