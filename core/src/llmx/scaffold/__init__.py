"""Packages for new families and backends: everything but what only their authors know."""
