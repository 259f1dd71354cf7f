"""What things cost: cases that are timed side by side, and the report, tables and pictures that come of it.

::

    cases, bare, peers   what is timed: calls, each about a known length of sound
    timing               how: hot and paced, in turns, pinned to one core
    environment          where: processor, versions, load
    resources            what a model takes before it makes a sound: a process of its own measures it
    runner               which cases make up a bench; runs them
    report, compare      what came out; against what came out before
    plots                the same as pictures

How to read the figures: ``docs/performance.md``. Nothing is imported here, so that the process of `resources` loads
nothing but what it measures.
"""
