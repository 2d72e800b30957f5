"""The version of this package, which the build reads from here.

At run time nothing reads the package's metadata: frozen applications and Lambda layers have none.
"""

__all__ = ["__version__"]

__version__ = "0.1.0"
