"""From camera images to fields: the code that reads the emulated bench and a real one alike.

Each readout shows binary patterns on a `Bench` and returns a `Reading`; what an effect costs is in `noise`, as closed
formulas.
"""
