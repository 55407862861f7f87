"""Reads a large answer in a process of its own, so that nothing else's memory counts. Prints one JSON object.

Run by test_prometheus_client.py.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tracemalloc

from greenfleet.prometheus import client
from greenfleet.prometheus.scrape_interval import NewestSamples

PIECE = 65536


def main() -> None:
    one = json.dumps({"metric": {"queue": "feeds", "text": "x" * 400}, "values": [[1, "1"]] * 4})
    count = 20 * 1024 * 1024 // len(one)
    body = f'{{"status":"success","data":{{"resultType":"matrix","result":[{",".join([one] * count)}]}}}}'.encode()
    turns = taken = peak = 0

    async def watch() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    def take(_: client.Series) -> None:
        nonlocal taken
        taken += 1

    async def run() -> None:
        nonlocal peak
        watcher = asyncio.ensure_future(watch())
        answer = client._Answer("main", take, NewestSamples())
        tracemalloc.start()
        for start in range(0, len(body), PIECE):
            answer.add(body[start : start + PIECE])
            await asyncio.sleep(0)
        answer.end()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        watcher.cancel()

    asyncio.run(run())
    figures = {"bytes": len(body), "series": count, "taken": taken, "turns": turns, "peak": peak}
    json.dump(figures, sys.stdout)


if __name__ == "__main__":
    main()
