"""The loop: take a view of fleet, signals and policy, decide, and publish what changed.

    watch.py     files that operators save: the policy and file_sd targets
    resolve.py   host names to addresses, again and again
    drains.py    which endpoints are being drained, and who may be
    census.py    how many proxies balance over a pool, without flapping on reconnects
    state.py     what survives a restart; keeping.py puts it there and takes it back
    actions.py   drains, strategies and registrations that somebody asks for; reservations.py reservations
    heartbeats.py, loads.py   what GPU hosts and proxies tell by themselves
    policy.py    the policy in force, and what became of the last attempt to change it
    loop.py      the loop itself; everything above feeds it or carries its result away

Every file here may do I/O; what to do is decided below, in plain functions.
"""
