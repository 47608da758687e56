"""The viewer: panoramas and the answers about them on one page in a browser, served here or written as one file.

The page itself is built from web/ by `make web` and committed in page/ with the licences of what it holds.
"""
