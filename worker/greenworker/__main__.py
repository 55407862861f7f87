"""``python -m greenworker``: agent ``installed``."""

from greenworker.launch import main

if __name__ == "__main__":
    main()
