"""``python -m greenworker``: agent ``installed``."""

from greenworker.bootstrap.launch import main

if __name__ == "__main__":
    main()
