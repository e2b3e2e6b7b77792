"""The `polysem` command, also as `python -m polysem`."""

import signal


def main() -> None:
    """Run the command. Ctrl-C while its modules are imported ends it at once: there is nothing yet to put in order."""
    interruptible = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if interruptible:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from polysem.client.commands import cli

    if interruptible:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    cli.main()


if __name__ == "__main__":
    main()
