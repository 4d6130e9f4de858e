"""The operator's mail tools; each command in /usr/local/sbin calls main() of one module."""
