"""The command line: one module a verb family. Nothing imports it."""
