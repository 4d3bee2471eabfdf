"""`gpuxds agent`: the small program on a GPU host that tells the control plane how the host and its engine are.

`nvml.py` reads the GPUs, `engine.py` the engine's metric page, and `loop.py` sends both again and again. Each part
may be missing without the others: a host without a driver still reports its engine, an engine that is down still
leaves its GPUs to be reported, and a server that is away is waited for. The process loads nothing of the control
plane itself.
"""
