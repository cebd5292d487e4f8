"""Storms: random faults and user actions on a lab, judged packet by packet. ``make test-storm``.

``script`` writes a storm from its seed, a pure function; ``storm`` plays it on a lab; ``shrink``
finds the fewest events that still fail. In ``judge``, ``edge`` sees every packet that reaches the
Internet, ``ledger`` says which addresses a pod was allowed when, and ``calm`` what has to be true
afterwards.
"""
