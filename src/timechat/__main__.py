"""`python -m timechat`: the same as the `timechat` command."""

from timechat.cli import main

if __name__ == "__main__":
    main()
