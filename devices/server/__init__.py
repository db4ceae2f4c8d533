"""The device server: one file, `opu_server.py`, that also runs on its own on the host of the hardware."""
