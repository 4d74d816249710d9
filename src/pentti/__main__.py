"""``python -m pentti`` is the command line."""

from pentti.cli import main

__all__: list[str] = []

if __name__ == "__main__":
    main()
