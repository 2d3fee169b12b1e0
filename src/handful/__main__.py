"""`python -m handful` is the same as `handful`. Knows nothing else."""

from handful.cli import main

if __name__ == "__main__":
    main()
