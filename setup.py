"""Everything but the part that is compiled is in setup.cfg."""

import platform
import sys
import sysconfig

from setuptools import Extension, setup

# A faster way for nearly all messages (see simplesockets/hotpath.py). Where it cannot be built, as without a compiler,
# it is left out.
FITS = (
    sys.platform == "linux"
    and platform.python_implementation() == "CPython"
    and not sysconfig.get_config_var("Py_GIL_DISABLED")
)
SPEEDUPS = Extension("simplesockets._speedups", ["simplesockets/_speedups.c"], optional=True)

setup(ext_modules=[SPEEDUPS] if FITS else [])
