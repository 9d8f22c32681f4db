"""The command line: ``raypipe``, also ``python -m raypipe``."""
