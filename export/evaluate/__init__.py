"""Measures denoisers against each other on mixtures of sounds that training never hears.

`mixtures` plans and makes the clips, `systems` runs ours and the peers, `metrics` scores one clip, `runner` does all of
them, `statistics` sums up, and `report` and `pictures` show. ``python -m export evaluate`` is the way in.
"""
