"""Programs of other people that run packs, compared with the dense weights from the same noise.

    python -m benchmarks.clients [--work .bench/clients] [--only NAME]

One file for each client, with a function `open_velocity(pack)`, and a row in CLIENTS.
"""
