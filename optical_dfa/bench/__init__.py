"""The benchmark of the emulator: `optical-dfa bench`. Ratios of one run, never a timed test; no torch but to time it.

`jobs` and `bars` are what is measured and what is asked of it, as data. `run` starts one process a job and setting,
`child` is that process, `measure` times pairs in it, `report` holds the result; `markdown` and `terminal` show it.
"""
