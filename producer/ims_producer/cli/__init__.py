"""The command line `ims-import`: asks, shows, and starts the other parts."""


def main() -> None:
    """Entry point of the program `ims-import`."""
    # Imported here: `ims_producer.cli.exit_codes` and `.screen` are used without the commands.
    from ims_producer.cli.app import run

    run()
