"""Redis result backends: one whose RETRY takes its time on the way, and one that refuses it."""

# mypy: ignore-errors

import time

from celery.backends.redis import RedisBackend


class SlowRetry(RedisBackend):
    def _set_with_state(self, key, value, state):
        if state == "RETRY":
            time.sleep(0.5)
        return super()._set_with_state(key, value, state)


class RefusesRetry(RedisBackend):
    def _set_with_state(self, key, value, state):
        if state == "RETRY":
            raise OSError("no room left")
        return super()._set_with_state(key, value, state)
