"""The command line `ims-import`: one module for each noun, built on the Python client."""


def main() -> None:
    """The entry point of `ims-import`."""
    # Other packages use `render` and `exit_codes` without loading all commands.
    from ims_producer.cli.app import run

    run()
