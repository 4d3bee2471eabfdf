"""What cannot be had on a laptop, faked and named so: GPU inference servers with the timing of real ones.

    gpus.py      the physics: how long one step takes on which GPU
    replica.py   one server's scheduler: continuous batching over that physics, no clock of its own
    workload.py  who asks for how many tokens, when
    faults.py    what can be made to go wrong
    pages.py     the vLLM and DCGM metric pages of a replica
    server.py    an OpenAI-compatible HTTP server around a replica
    control.py   one process that serves many of them and takes faults
    load.py      an open-loop client that measures what users see

It stands alone: nothing of the control plane imports it and it imports nothing of the control plane.
"""
