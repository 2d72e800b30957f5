"""An object store in a directory.

- `store`: the store, on threads of its own.
- `files`: reads and writes files under a root.
- `directories`: directories under a root, opened without following links.
- `locks`: locks on directories.
- `inspection`: what the file system of a root can do, for `check`.
"""
