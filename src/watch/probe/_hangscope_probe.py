"""Stands in for the plugin, which comes with the branch `probe`."""
