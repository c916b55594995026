"""The command line: ``fp4jax VERB``, and ``python -m experiments.VERB`` in a source tree.

A verb is a module of :mod:`fp4jax.cli.verbs`: its docstring is the help, ``Args`` what it is told,
``command`` what it does, ``VERB`` the three together. :mod:`fp4jax.cli.program` finds and runs it.
Needs the extra ``study``; every verb imports what it uses itself.
"""
