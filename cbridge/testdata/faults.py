"""Ways to fail, for the tests of errors; they check file, line and source text."""

import sys


def plain():
    raise ValueError("no such bucket")


def chained():
    try:
        {}["loss"]
    except KeyError as err:
        raise RuntimeError("outer") from err


def in_context():
    try:
        {}["loss"]
    except KeyError:
        raise RuntimeError("outer")


def silenced():
    try:
        {}["loss"]
    except KeyError:
        raise RuntimeError("outer") from None


def noted():
    err = ValueError("bad gradient")
    err.__notes__ = ["on rank 3", "in bucket 7", 5]  # add_note() of 3.11 does this
    raise err


class Speechless(Exception):
    def __str__(self):
        raise ZeroDivisionError


def speechless():
    raise Speechless


def with_fields():
    err = ConnectionError("lost")
    err.host, err.port, err.log = "node-7", 29500, "x" * 1_000_000
    raise err


def huge():
    raise ValueError("x" * 1_000_000)


def own_cause():
    err = ValueError("ouroboros")
    err.__cause__ = err
    raise err


def each_other():
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first
    raise first


def long_chain():
    err = None
    for i in range(100):
        new = ValueError(str(i))
        new.__cause__ = err
        err = new
    raise err


def missing_file():
    open("/no/such/file")


def leave():
    sys.exit(3)


def interrupt():
    raise KeyboardInterrupt


def deep(n=0):
    return deep(n + 1)


def deep_repr():
    nest = []
    for _ in range(100_000):
        nest = [nest]
    repr(nest)


def surrogate():
    raise ValueError("lone \ud800 surrogate")


class Error(Exception):
    class Inner(Exception):
        pass


def nested_type():
    raise Error.Inner("deep name")
