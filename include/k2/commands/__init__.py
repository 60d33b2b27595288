"""The commands of `k2`, a module for each part of the system. They parse, call and show."""
