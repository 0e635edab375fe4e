"""Fuzzers for what reads bytes from strangers: the framers, HiSock's protocol, HPX's frames and messages.

The suite runs each for a moment (test_fuzz.py). By hand, for as long as wanted::

    python -m tests.fuzz hisock --seconds 600 --seed 1
    python -m tests.fuzz hpx --frames 10000000
    python -m tests.fuzz base --seed 1 --case 4711        # one case again, with what it did

``running.py`` has the loop and what must hold of everything; ``mutations.py`` how streams are spoiled; one file for
each codec says what its frames are and what its readers may give.
"""
