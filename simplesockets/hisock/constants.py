"""Facts about this module, under the names that programs look for."""

from .. import __version__

__all__ = ["__author__", "__copyright__", "__license__", "__version__"]

__author__ = "the simplesockets project"
__copyright__ = "the simplesockets project"
__license__ = "MIT"
