"""Pruning methods, a file a paper.

    names          METHODS by name
    options        what each may be told
    base           the contract: `Method`, `Decision`
    controls       what a method has to beat: uniform, random, magnitude, dense, scratch

To add one: a file with a subclass of `base.Method`, a line in `names.METHODS`, its options in
`options` if it has any, a flagfile. From outside: `METHODS['mine'] = Mine`, the options a subclass
of `options.Options` in its class attribute `Options`. The test that runs every entry of METHODS
says when it is done.

Imports `search` and what that imports.
"""
