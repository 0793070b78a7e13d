"""The runner: the supervisor program inside a sandbox.

It imports nothing but the standard library, because it is copied into a bundle of its own (see
``toolfleet.backends.runtime``) and started there with ``python -I -S``. Modules, in call order::

    main        start-up: read the boot message, enter the sandbox, serve
    standalone  start-up where an engine has made the sandbox: as PID 1, in the foreground, or as a daemon
    relay       a program of its own: standard streams to the runner's socket and back
    enter       assemble and pivot into the root, give up every privilege
    kernel      the few system calls that Python has no function for
    reactor     the single-threaded event loop: descriptors, timers, SIGCHLD
    seal        proof and integrity where commands can reach the socket or the relay
    server      connections: frames in, frames out, fencing
    supervisor  calls from start to outcome, deduplicated by id
    processes   background processes: start, look at, wait for, write to, kill
    background  one of them, with its log
    shells      persistent shells by name
    shell       one of them: one command after another, each told its end
    children    who waits for the end of which process
    spawn       how a command or an applet becomes a process
    arguments   the arguments of a request, checked one by one
    ends        pipes and terminals for it
    streams     reading and writing of what outlives its call
    rolling     the latest bytes of a log, by offset
    applets     read and write, run in a forked child
    files/      everything else that is done with files, in forked children as well
    archive     unpack, run in a forked child
    capture     bounded head and tail of a stream
    killer      kill a call's whole process tree
    procfs      what /proc says about processes
    memory      who was killed for memory, and the monitor where there is no cgroup
    spool       files without a name, for content on its way in
    address     how a socket's address is written
    frames      the wire format, shared with the host side
"""
