"""raypipe: change data out of SQL databases, through SQL views, into many stores at once, exactly once."""

__version__ = "0.1.0"
