"""How often a test looks while it waits."""


def pause(waited: float) -> float:
    """Seconds until the next look after so many of waiting: a twentieth of them, at least 0.05, at most 0.2.

    What takes 30 s is not looked at 600 times: looking costs the CPU that the thing looked at waits for.
    """
    return max(0.05, min(0.2, waited / 20))
