"""The commands: parse, read a recipe, call one function, print one line."""
