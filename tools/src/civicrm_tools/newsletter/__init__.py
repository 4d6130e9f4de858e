"""The public archive of sent newsletters: pages that are the same for every reader.

`archive` is the command: it asks the application, publishes and sends. `pages` writes pages and index and keeps the
state; `markup` writes a newsletter anew from allowed markup; `personal` knows what belongs to one reader.
"""
