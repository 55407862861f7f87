"""The demo: one command that boots a cluster, puts a feed hub under load and shows what Greenfleet does about it.

    python -m demo run      cluster, images, charts, load, live view, summary, picture
    python -m demo down     remove everything that it made
    python -m demo draw     the picture once more, from a recorded timeline

Layers, from the bottom: `pattern`, `timeline` and `summary` are pure; `picture` and `live` show them; `api`, `shell`
and `observer` look at the world; `stage`, `faults` and `show` act on it; `cli` is for people.
"""
