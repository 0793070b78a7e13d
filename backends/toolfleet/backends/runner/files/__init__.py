"""What the runner does with files: operations that run in a forked child, and pure functions behind them.

In call order::

    dispatch    a request as an applet: its arguments checked, its stage found
    staging     content on its way, in files without a name
    transfer    get, put, commit: bytes in parts
    tree        list, pack
    search      a pattern in contents, a glob in names
    edit        patch: changes of text files, all or nothing
    v4a         the patch format for several files
    matching    where a carelessly quoted text stands
    diff        a unified diff in bounded time
    lint        whether a file can be parsed
"""
