"""`gpuxds demo`: the whole path on one machine, with a story that proves it.

processes.py  starts, kills and always stops fake GPUs, Envoy and the control plane
stage.py      what runs, on which port, and the handles the story pulls
gauge.py      shares of traffic from Envoy's counters
story.py      the steps and their verdicts
screen.py     the live view
command.py    the command: terminal or plain lines, exit status
"""
