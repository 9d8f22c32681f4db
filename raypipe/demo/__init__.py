"""A small shop whose database never stands still: what `raypipe demo` and the tests let raypipe follow."""
