"""A quarter of an hour of new rows, out of a small table and out of a large one."""
